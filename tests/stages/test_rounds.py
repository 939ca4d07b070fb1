"""Rounds: what is chosen, who labels it, what is retrained on what, and how a run that was killed goes on."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several
import tiny_task
from rounds_task import rounds_config
from tiny_task import count_a

from rlhf_jax import stages
from rlhf_jax.data import Comparison, DataError, RatedResponse, train_tokenizer
from rlhf_jax.data.layouts.pairs import pair_votes
from rlhf_jax.data.parts import Parts
from rlhf_jax.runs.errors import NeedsPeople, RunError
from rlhf_jax.stages import ChooseConfig, RewardConfig, Task
from rlhf_jax.stages.rounds.choosing import candidate_pairs, choose, dispute, hardness
from rlhf_jax.stages.rounds.labels import label, labelled, read_pairs
from rlhf_jax.stages.rounds.old import Old, old_pairs
from rlhf_jax.stages.rounds.retraining import accuracy, union

TASK = Path(__file__).parents[1] / "rounds_task.py"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def goes(folder, how, cache, *, dies=False):
    words = [sys.executable, TASK, folder, how]
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **several.simulated(1), **kept}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1000)
    assert done.returncode == (-signal.SIGKILL if dies else 0), done.stderr[-3000:]


@pytest.mark.timeout(1800)
def test_a_round_that_is_killed_ends_bit_for_bit_like_one_that_never_was(tmp_path):
    cache, killed, whole = (tmp_path / name for name in ("cache", "killed", "whole"))
    # A PPO measures twice while it trains and twice at its end: this is in the second round's, after a checkpoint.
    goes(killed, "6", cache, dies=True)
    assert (killed / "rounds" / "round1" / "round.json").exists()
    assert list((killed / "rounds" / "round2" / "checkpoints" / "ppo").glob("*"))
    assert not (killed / "rounds" / "round2" / "params" / "ppo").exists()
    shutil.copytree(killed, whole)
    for left in (
        "checkpoints",
        "params",
        "metrics.jsonl",
        "made_of.json",
        "config.json",
        "summary.json",
        "samples.jsonl",
    ):
        gone = whole / "rounds" / "round2" / left
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    goes(killed, "whole", cache)
    goes(whole, "whole", cache)  # its second round, from the labels on, in one go
    here, there = (place / "rounds" / "round2" for place in (whole, killed))
    found = [json.loads((place / "summary.json").read_text()) for place in (here, there)]
    assert found[0]["params_sha256"] == found[1]["params_sha256"]
    for stage in ("reward", "ppo"):
        one, other = ({**each[stage], "reward": "", "verdicts": ""} for each in found)  # which name the folder
        assert one == other
    assert lines(here / "metrics.jsonl") == lines(there / "metrics.jsonl")
    assert (here / "samples.jsonl").read_bytes() == (there / "samples.jsonl").read_bytes()
    asks_the_newest_policies_and_retrains_on_all_that_was_labelled(killed / "rounds")


def asks_the_newest_policies_and_retrains_on_all_that_was_labelled(rounds):
    trained, figures = 16, json.loads((rounds / "summary.json").read_text())["rounds"]
    for number, asked in ((1, {"start"}), (2, {"round1", "start"})):
        here = rounds / f"round{number}"
        drawn, pairs, labels = (lines(here / f"{name}.jsonl") for name in ("drawn", "pairs", "labels"))
        assert [set(row["policies"]) for row in drawn] == [asked] * 12
        assert len(drawn[0]["responses"]) == 2 * len(asked)
        assert figures[number - 1]["pairs"] == len(pairs) == len(labels)
        for pair, row in zip(pairs, labels, strict=True):
            a, b = count_a(None, [pair["a"], pair["b"]])
            assert row["preference"] == (0.5 if a == b else float(a > b))
            assert (row["rater"], row["source"], row["round"]) == ("gold", "judge", number)
        trained += sum(pair["heldout"] == "" for pair in pairs)
        made_of = json.loads((here / "made_of.json").read_text())
        assert f"({trained} training, " in made_of["reward"]["made_of"]["data"]["is"]
    # The prompts of the second round are others, and its policy goes on from the first, held to where it all began.
    one, two = (lines(rounds / f"round{number}" / "drawn.jsonl") for number in (1, 2))
    assert not {row["prompt"] for row in one} & {row["prompt"] for row in two}
    assert made_of["ppo"]["made_of"]["policy"]["is"].endswith("round1:ppo")
    assert made_of["ppo"]["made_of"]["reference"]["is"].endswith("base")
    summaries = [json.loads((rounds / f"round{number}" / "summary.json").read_text())["ppo"] for number in (1, 2)]
    moved = summaries[0]["best_step"] > 0
    assert (summaries[1]["curve"][0]["kl"] != 0) == moved  # the KL counts from where the rounds began


@pytest.fixture
def stages_called(monkeypatch):
    """Rounds whose stages train nothing: what each is called with."""
    module = importlib.import_module("rlhf_jax.stages.rounds.rounds")  # the package has a function of this name
    called = []
    for name in ("reward_model", "ppo", "preference"):

        def collect(config, *, name=name, **named):
            called.append((name, config, named))

        monkeypatch.setattr(module, name, collect)
    monkeypatch.setattr(module, "of_model", lambda path, stage="": {"is": path, "sha256": "00"})
    monkeypatch.setattr(module._Rounds, "figures", lambda self, number, pairs, found: {"round": number})
    return module, called


def test_preference_optimisation_goes_on_from_votes_that_people_gave_before(stages_called, tmp_path):
    _, called = stages_called
    tiny_task.write_data(tmp_path / "data")
    changes = {"method": "preference", "candidates": "data", "label": "votes", "old_pairs": 8, "prompts": 8}
    found = stages.rounds(rounds_config(tmp_path, choose=ChooseConfig(random=6, disputed=0), **changes))
    assert [name for name, _, _ in called] == ["reward_model", "preference"] * 2
    for number, ((_, reward, named), (_, config, beside)) in enumerate((called[:2], called[2:]), start=1):
        here = found.directory / f"round{number}"
        pairs, labels = lines(here / "pairs.jsonl"), lines(here / "labels.jsonl")
        assert len(pairs) == 6
        assert [row["preference"] for row in labels] == [pair["share"] for pair in pairs]
        assert (reward.out, reward.init, reward.seed) == (str(here), str(tmp_path / "base"), number)
        assert config.policy == str([tmp_path / "base", f"{tmp_path}/rounds/round1:preference"][number - 1])
        assert config.reference == ("" if number == 1 else str(tmp_path / "base"))
        kept = [pair for n in range(1, number + 1) for pair in lines(found.directory / f"round{n}" / "pairs.jsonl")]
        trained = named["task"].opinions(None).train
        assert len(trained) == 8 + sum(pair["heldout"] == "" for pair in kept)
        assert beside["task"].opinions(None).train == trained
    # Nothing is drawn or asked again, what a kill has left out is made again as it was, and more rounds can follow.
    (here / "labels.jsonl").unlink()
    before = [(here / f"{name}.jsonl").read_bytes() for name in ("drawn", "pairs")]
    (here / "pairs.jsonl").unlink()
    stages.rounds(rounds_config(tmp_path, rounds=3, choose=ChooseConfig(random=6, disputed=0), **changes))
    assert [(here / f"{name}.jsonl").read_bytes() for name in ("drawn", "pairs")] == before
    with pytest.raises(RunError, match="holds rounds of another config"):
        stages.rounds(rounds_config(tmp_path, **{**changes, "old_pairs": 9}))


class Length:
    """A reward model that likes length, and whose members differ on texts with an x."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def score_members(self, sequences):
        each = np.array([float(len(tokens)) for tokens in sequences])
        odd = np.array([float("x" in self.tokenizer.decode(list(map(int, tokens)))) for tokens in sequences])
        return np.stack([each + 3 * odd, each - 3 * odd])


def test_what_the_reward_model_disputes_and_what_a_judge_contradicts_is_asked(stages_called, tmp_path, monkeypatch):
    module, _ = stages_called
    tiny_task.write_data(tmp_path / "data")
    scorer = Length(train_tokenizer(["a text of words xyz"], 300))
    monkeypatch.setattr(module.Scorer, "load", lambda run: scorer)
    here = tmp_path / "rounds" / "round1"
    here.mkdir(parents=True)
    texts = [["ab", "abcx"], ["b", "long and long and long"], ["cc", "c"], ["dd", "dd dd"]]
    rows = [{"prompt": f"P{i}", "responses": each, "policies": ["start"] * 2} for i, each in enumerate(texts)]
    (here / "drawn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = tmp_path / "mine.py"
    judge.write_text("def short(prompts, responses):\n    return [-len(text) for text in responses]\n")
    choose = ChooseConfig(random=0, disputed=1, hard=1, judge=f"{judge}:short")
    config = rounds_config(tmp_path, rounds=1, choose=choose, reward_model=str(tmp_path / "first"))
    stages.rounds(config, judges={"gold": count_a})
    chosen = {row["chosen_by"]: row["prompt"] for row in lines(here / "pairs.jsonl")}
    assert chosen == {"disputed": "P0", "hard": "P1"}


def test_pairs_are_of_different_responses_that_say_something():
    pairs, prompts = candidate_pairs([["a", "b", "a ", ""], ["c"], ["d", "e"]])
    assert pairs.tolist() == [[0, 1], [5, 6]]
    assert prompts.tolist() == [0, 2]


def test_constants_that_members_differ_by_are_no_dispute():
    scores = np.array([[1.0, 0.0, 3.0], [1.0, 2.0, 3.0]])
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    np.testing.assert_allclose(dispute(scores, pairs), dispute(scores + np.array([[5.0], [-7.0]]), pairs))
    np.testing.assert_allclose(dispute(scores, pairs), [1.0, 1.0, 0.0])


def test_the_hardest_pair_is_the_one_on_which_both_are_sure_and_disagree():
    proxy, judge = np.array([0.0, 2.0, 2.0, 0.1]), np.array([0.0, -2.0, 2.0, -4.0])
    found = hardness(proxy, judge, np.array([[0, 1], [0, 2], [0, 3]]))
    assert np.argmax(found) == 0
    assert found[1] < 0 < found[2]
    # Which response comes first makes no difference.
    np.testing.assert_allclose(found, hardness(proxy, judge, np.array([[1, 0], [2, 0], [3, 0]])))


def test_pairs_at_random_are_drawn_before_any_model_has_a_say():
    pairs, prompts = candidate_pairs([[f"{i} a", f"{i} b"] for i in range(50)])
    rng = np.random.default_rng(0)
    members, judge = rng.normal(size=(3, 100)), rng.normal(size=100)
    config = ChooseConfig(random=10, disputed=10, hard=30, judge="vader")
    found = choose(pairs, prompts, config, members=members, judge=judge, seed=3)
    alone = choose(pairs, prompts, ChooseConfig(random=10, disputed=0), seed=3)
    assert [one for one in found if one.why == "random"] == alone
    hard = [one.pair for one in found if one.why == "hard"]
    # No pair is hard on which proxy and judge agree, however many are asked for.
    assert (hardness(members.mean(0), judge, pairs)[hard] > 0).all()
    assert len(hard) < 30
    assert len({one.pair for one in found}) == len(found)
    assert len(choose(pairs, prompts, ChooseConfig(random=40, disputed=0, per_prompt=1), seed=0)) == 40


def row(text, share=1.0):
    return Comparison(text, (f"{text} good", f"{text} bad"), pair_votes(share), text)


def test_a_retraining_sees_old_pairs_and_those_of_the_latest_rounds():
    old = Old([row("old")], [row("held")], [row("test")], lambda number: [])
    rounds = [{"": [row(f"new{n}")], "validation": [], "test": [row(f"test{n}")]} for n in (1, 2)]
    every, last = (union(Task(), old, rounds, window=window).opinions(None) for window in (0, 1))
    assert [one.prompt for one in every.train] == ["old", "new1", "new2"]
    assert [one.prompt for one in last.train] == ["old", "new2"]
    assert [one.prompt for one in last.test] == ["test", "test2"]


def test_old_pairs_of_rated_responses_have_their_raters_votes_and_no_round_gets_them(tmp_path):
    rated = [RatedResponse("Say.", f"text {i}", np.array([i, i + 1.0]), "") for i in range(40)]
    task = Task(opinions=lambda config: Parts(rated, rated[:4], rated[4:8]))
    config = rounds_config(tmp_path, old_pairs=10, old_heldout=3, prompts=12)
    old = old_pairs(config, task)
    assert [len(part) for part in old[:3]] == [10, 3, 3]
    for pair in old.train:
        first, second = (int(text.split()[1]) for text in pair.responses)
        if abs(first - second) > 1:
            assert pair.votes[0, 1] == (2.0 if first > second else 0.0)
    told = [{pair.responses for pair in part} for part in (old.train, old.spare(1), old.spare(2))]
    assert [len(part) for part in told] == [10, 12, 12]
    assert len(set.union(*told)) == 34


@pytest.fixture
def asked(tmp_path):
    """A round whose pairs were chosen."""
    pairs = [{"prompt": "Hi.", "a": f"a{i}", "b": "no", "chosen_by": "random", "heldout": ""} for i in range(4)]
    pairs[3]["heldout"] = "test"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return tmp_path, read_pairs(tmp_path / "pairs.jsonl")


def test_a_round_that_people_label_says_what_to_do_and_takes_their_rows(asked):
    folder, pairs = asked
    config = rounds_config(folder, label="people")
    with pytest.raises(NeedsPeople) as stopped:
        label(config, folder, pairs, 1, {})
    said = str(stopped.value)
    assert f"rlhf compare {folder / 'pairs.jsonl'} --to {folder / 'said.sqlite'} --pairs 0 --round 1" in said
    assert f"rlhf data {folder / 'said.sqlite'} --to {folder / 'labels.jsonl'}" in said
    assert stopped.value.exit_code == 75
    # Two raters, one of whom saw the sides the other way round, and not all pairs.
    rows = [
        {"prompt": "Hi.", "a": "a0", "b": "no", "preference": "a", "rater": "ann", "source": "person", "round": 1},
        {"prompt": "Hi.", "a": "no", "b": "a0", "preference": "tie", "rater": "bo", "source": "person", "round": 1},
        {"prompt": "Hi.", "a": "a3", "b": "no", "preference": "b", "rater": "bo", "source": "person", "round": 1},
    ]
    to = folder / "labels.jsonl"
    to.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert label(config, folder, pairs, 1, {}) == to
    found = labelled(to, pairs)
    assert [len(found[part]) for part in ("", "validation", "test")] == [2, 0, 1]
    to.write_text(json.dumps({**rows[0], "a": "another"}) + "\n")
    with pytest.raises(DataError, match=r"labels\.jsonl:1: this pair is none of 4 in .*pairs\.jsonl"):
        labelled(to, pairs)


def test_labels_of_some_pairs_are_said_to_be_some_and_none_are_waited_for(asked, capsys):
    folder, pairs = asked
    config, to = rounds_config(folder, label="people"), folder / "labels.jsonl"
    to.write_text("\n")
    with pytest.raises(NeedsPeople, match=r"labels\.jsonl has no row yet"):
        label(config, folder, pairs, 1, {})
    to.write_text(json.dumps({"prompt": "Hi.", "a": "a0", "b": "no", "preference": "a"}) + "\n")
    labelled(to, pairs)
    assert "says something of 1 of 4 pairs" in capsys.readouterr().err


class Long:
    """A reward model that likes length."""

    tokenizer = train_tokenizer(["a text of words xyz"], 300)

    def score_tokens(self, sequences):
        return np.array([float(len(tokens)) for tokens in sequences])


def test_what_several_raters_say_of_a_pair_is_one_pair_and_no_accuracy_is_sure():
    one = Comparison("P", ("long and long", "no"), pair_votes(1.0), "")
    turned = Comparison("P", ("no", "long and long"), pair_votes(0.0), "")
    against = Comparison("P", ("no", "long and long"), pair_votes(1.0), "")
    found = accuracy(Long(), [one, turned, against])
    assert (found["accuracy"], found["pairs"]) == (1.0, 1)
    np.testing.assert_allclose(found["ci"], (0.2065, 1.0), atol=1e-4)  # Wilson's of 1 in 1
    assert accuracy(Long(), [one, against]) == {"accuracy": None, "ci": None, "pairs": 0}
    assert accuracy(Long(), []) == {"accuracy": None, "ci": None, "pairs": 0}


def test_a_pair_on_which_the_judge_abstains_is_no_label(asked, tmp_path):
    folder, pairs = asked
    file = tmp_path / "mine.py"
    file.write_text(
        "def mine(prompts, responses):\n    return [float('nan') if a == 'a1' else 0.75 for a, _ in responses]\n"
    )
    config = rounds_config(folder, label=f"judge:{file}:mine")
    rows = lines(label(config, folder, pairs, 2, {}))
    assert [(one["a"], one["preference"]) for one in rows] == [("a0", 0.75), ("a2", 0.75), ("a3", 0.75)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": "somebody"}, "label must be people, gold, votes or judge:SPEC, found 'somebody'"),
        ({"label": "votes"}, "nobody has voted among samples yet"),
        ({"gold_scale": 1.0, "label": "people"}, "gold_scale 1.0 is read where label is gold"),
        ({"samples": 1, "earlier": 0}, "one response to a prompt makes no pair"),
        ({"temperatures": (1.0, 1.0)}, "temperatures must differ"),
        ({"retrain": "continue", "reward": RewardConfig(members=2)}, "an ensemble cannot go on from an ensemble"),
        ({"choose": ChooseConfig()}, "nothing disputes the pairs of round 1"),
        ({"heldout": 1.0}, "heldout must be at least 0 and below 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, says, tmp_path):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        rounds_config(tmp_path, **changes)


def test_choosing_hard_pairs_needs_who_says_what_is_worse():
    with pytest.raises(ValueError, match=r"choose\.hard needs choose\.judge"):
        ChooseConfig(hard=3)
    with pytest.raises(ValueError, match=r"is read for choose\.hard alone"):
        ChooseConfig(judge="vader")
    with pytest.raises(ValueError, match="choose takes no pair"):
        ChooseConfig(random=0, disputed=0)
