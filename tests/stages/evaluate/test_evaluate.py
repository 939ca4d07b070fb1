"""``rlhf evaluate``: a thousand pairs counted by hand, layouts, subsets, golden items, ensembles and judges."""

import json

import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, evaluation, stages
from rlhf_jax.data import DataError, write_jsonl
from rlhf_jax.stages import RunError


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def thousand():
    """A thousand pairs: half of them either way round, some ties, some of the same two responses."""
    rng = np.random.default_rng(5)
    both = tiny_task.GOOD + tiny_task.BAD
    rows = []
    for i in range(1000):
        a, b = tiny_task.sentence(rng, both), tiny_task.sentence(rng, both)
        if i % 50 == 0:
            b = a  # the scores are equal, to the bit
        better = "a" if a.count("a") >= b.count("a") else "b"
        row = {"prompt": f"The {tiny_task.ANIMALS[i % 12]} {i}", "a": a, "b": b}
        rows.append({**row, "preference": (better, better, 0.7, "tie", 0.2)[i % 5], "meta": {"kind": "xyz"[i % 3]}})
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_jsonl(file, thousand())
    return file


def test_a_thousand_pairs_are_what_counting_the_output_of_score_gives(reward_run, folder, pairs, tmp_path, capsys):
    """Counted from ``rlhf score``'s file, without any of the functions that evaluate: exactly the same."""
    scored, figures = tmp_path / "scored.jsonl", tmp_path / "figures.json"
    assert cli.run(["score", str(folder), "--input", str(pairs), "--to", str(scored)]) == 0
    words = ["evaluate", str(folder), "--data", str(pairs), "--by", "meta.kind", "--json", str(figures)]
    assert cli.run(words) == 0
    found = json.loads(figures.read_text())
    rows = read(scored)
    assert len(rows) == 1000
    right, kinds, gaps, shares, ties = [], [], [], [], []
    for row in rows:
        # `score` calls chosen what people prefer, the first where they tie.
        gap = np.float64(row["chosen_score"]) - np.float64(row["rejected_score"])
        share = {"a": 1.0, "b": 1.0, "tie": 0.5, 0.7: 0.7, 0.2: 0.8}[row["preference"]]
        gaps.append(gap)
        shares.append(share)
        if share == 0.5:
            ties.append(gap)
            continue
        right.append(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
        kinds.append(row["meta"]["kind"])
    right, kinds = np.array(right), np.array(kinds)
    assert found["n"] == len(right) == 800
    assert found["ties"] == len(ties) == 200
    assert found["accuracy"] == right.mean()
    assert 0.55 < found["accuracy"] < 1
    assert found["even_scores"] == (right == 0.5).sum() > 0
    assert found["accuracy_ci"][0] < found["accuracy"] < found["accuracy_ci"][1]
    assert {kind: part["n"] for kind, part in found["by"].items()} == {k: (kinds == k).sum() for k in "xyz"}
    for kind in "xyz":
        assert found["by"][kind]["accuracy"] == right[kinds == kind].mean()
    # Calibration by hand: ten bins of what the model gives to the side that it prefers.
    gaps, shares = np.array(gaps), np.array(shares, np.float32).astype(np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    seen = np.where(gaps == 0, 0.5, np.where(gaps > 0, shares, 1 - shares))
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    ece = sum(abs(confidence[bins == b].mean() - seen[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert found["ece"] == pytest.approx(ece, abs=1e-7)
    near = (np.abs(1 / (1 + np.exp(-np.array(ties))) - 0.5) < 0.1).mean()
    assert found["ties_near"] == pytest.approx(near)
    assert found["worst"] in "xyz"
    said = capsys.readouterr().out
    assert f"{found['accuracy']:.1%}" in said
    assert f"worst subset: {found['worst']}" in said


JUDGES = """
def count_a(prompts, responses):
    return [float(r.count("a")) for r in responses]


def length(prompts, responses):
    return [float(len(r)) for r in responses]


def broken(prompts, responses):
    return ["good"] * len(responses)
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    file = tmp_path_factory.mktemp("judges") / "judges.py"
    file.write_text(JUDGES)
    return file


def test_a_judge_is_evaluated_like_a_reward_model(judges, pairs):
    """By name or as a function; counted by hand, as it counts a letter."""
    found = stages.evaluate(f"{judges}:count_a", pairs, by="meta.kind")
    rows = [row for row in thousand() if row["preference"] != "tie"]
    right = []
    for row in rows:
        gap = row["a"].count("a") - row["b"].count("a")
        prefers_a = row["preference"] in ("a", 0.7)
        right.append(0.5 if gap == 0 else float((gap > 0) == prefers_a))
    assert found.quality.accuracy == np.mean(right)
    assert found.to_json() == stages.evaluate(tiny_task.count_a, str(pairs), by="meta.kind").to_json() | {
        "what": f"the judge {judges}:count_a"
    }


def bench_1():
    """Rows with the columns of RewardBench, written here."""
    rows = [
        ("alpacaeval-easy", "a far bath", "the low"),
        ("alpacaeval-easy", "hop", "a vast bath"),
        ("llmbar-natural", "sat", "fell"),
        ("refusals-offensive", "had", "rose"),
        ("math-prm", "a", "fell"),
        ("hep-go", "low", "a"),
        ("hep-rust", "a", "low"),
    ]
    models = {"chosen_model": "human", "rejected_model": "none"}
    return [
        {"prompt": f"The cat {i}", "chosen": good, "rejected": bad, **models, "subset": subset, "id": i}
        for i, (subset, good, bad) in enumerate(rows)
    ]


def bench_2():
    """Rows with the columns of RewardBench 2, written here."""
    rows = [
        ("1", "Math", ["a a a"], ["a", "the", "low"]),
        ("2", "Math", ["the"], ["a", "the", "low"]),
        ("3", "Focus", ["a"], ["a", "fell", "low"]),
        ("tied:1", "Ties", ["a a a", "a a"], ["the", "low"]),
        ("ref:1", "Ties", ["a a a"], ["low"]),
    ]
    return [
        {
            **{"id": key, "prompt": f"The hen {key}", "chosen": right, "rejected": wrong},
            **{"num_correct": len(right), "num_incorrect": len(wrong), "total_completions": len(right) + len(wrong)},
            **{"models": ["human"] * (len(right) + len(wrong)), "subset": subset, "additional_metadata": None},
        }
        for key, subset, right, wrong in rows
    ]


def test_reward_bench_is_recognised(tmp_path, judges, capsys):
    write_jsonl(tmp_path / "bench.jsonl", bench_1())
    to = tmp_path / "new" / "figures.json"
    words = ["evaluate", f"{judges}:count_a", "--data", str(tmp_path / "bench.jsonl"), "--json", str(to)]
    assert cli.run(words) == 0
    found = json.loads(to.read_text())
    assert (found["n"], found["accuracy"]) == (7, 5 / 7)
    assert list(found["by"]) == list(dict.fromkeys(row["subset"] for row in bench_1()))
    scores = {"Chat": 0.5, "Chat Hard": 1.0, "Safety": 1.0, "Reasoning": 0.75}
    assert found["benchmark"] == {"name": "RewardBench", "scores": scores, "score": np.mean([*scores.values()])}
    said = capsys.readouterr().out
    assert "RewardBench: Chat 50.0, Chat Hard 100.0, Safety 100.0, Reasoning 75.0; 81.2 in all" in said
    assert "worst subset: hep-go, 0.0% of 1" in said


def test_reward_bench_2_is_recognised(tmp_path, judges):
    write_jsonl(tmp_path / "bench.jsonl", bench_2())
    found = stages.evaluate(f"{judges}:count_a", tmp_path / "bench.jsonl")
    assert found.benchmark.name == "RewardBench 2"
    # Math: right, and wrong; Focus: two share the top; ties: 3 and 2 against 0, apart by 1, the reference by 3.
    ties = 1 + 0.01 * np.tanh(2 / 1 - 1)
    assert found.benchmark.scores == {"Math": 0.5, "Focus": 0.5, "Ties": pytest.approx(ties)}
    assert found.benchmark.score is None  # three of six subsets say nothing of the whole
    assert found.by["Math"].chance == 0.25
    by_id = stages.evaluate(f"{judges}:count_a", tmp_path / "bench.jsonl", by="num_correct")
    assert list(by_id.by) == ["1", "2"]
    assert by_id.benchmark == found.benchmark  # whatever the rows are cut by


def test_best_of_rows_of_ones_own(tmp_path, judges):
    rows = [
        {"prompt": "One", "chosen": "a a", "rejected": ["a", "the"]},
        {"prompt": "Two", "responses": ["the", "a", "low"], "best": 1},
        {"prompt": "Three", "responses": ["a", "a a", "low"], "best": [0, 1]},
        {"prompt": "Four", "responses": ["a", "the"], "best": 1},
        {"prompt": "Five", "responses": ["the", "a a", "a"], "ranking": [3, 1, 1]},
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = stages.evaluate(f"{judges}:count_a", tmp_path / "rows.jsonl").quality
    assert (found.n, found.accuracy) == (5, 0.8)
    assert found.chance == pytest.approx((1 / 3 + 1 / 3 + 1 / 3 + 1 / 2 + 1 / 3) / 5)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "x", "responses": ["a", "b"], "best": 2}, "field 'best': expected a place from 0 to 1"),
        ({"prompt": "x", "responses": ["a", "b"], "best": [0, 1]}, "field 'best'"),
        ({"prompt": "x", "responses": ["a", "b"], "best": 0, "ranking": [2, 1]}, "fields 'best' and 'ranking'"),
        ({"prompt": "x", "responses": ["a", ""], "best": 0}, "field 'responses[1]': expected non-empty text"),
        ({"prompt": "x", "chosen": ["a"], "rejected": []}, "field 'rejected': expected a text or a non-empty list"),
        ({"prompt": "x", "chosen": ["a"], "rejected": ["b"], "num_correct": 2}, "field 'num_correct': expected 1"),
        ({"prompt": "x", "chosen": ["a"], "rejected": ["b"], "images": ["i"]}, "field 'images': expected none"),
        ({"prompt": "x", "response": "a"}, "comparisons, found the layout demonstrations"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "kind": ["c"]}, "field 'kind' (--by): expected a text"),
    ],
    ids=["no place", "all", "two answers", "empty", "none wrong", "count", "image", "no pair", "list"],
)
def test_a_bad_row_is_named(row, says, tmp_path, judges):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "x", "chosen": "a", "rejected": "b", "kind": "c"}, row])
    with pytest.raises(DataError) as error:
        stages.evaluate(f"{judges}:count_a", tmp_path / "rows.jsonl", by="kind")
    assert str(error.value).startswith(f"{tmp_path}/rows.jsonl:2: ")
    assert says in str(error.value)
    if "--by" not in says:
        found = stages.evaluate(f"{judges}:count_a", tmp_path / "rows.jsonl", by="kind", on_bad_row="skip")
        assert (found.quality.n, found.left_out) == (1, 1)


def test_of_several_splits_the_test_split_is_meant(tmp_path, judges):
    for split, rejected in (("train", "a a"), ("test", "low")):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"prompt": "One", "chosen": "a", "rejected": rejected}])
    assert stages.evaluate(f"{judges}:count_a", tmp_path).quality.accuracy == 1.0
    assert stages.evaluate(f"{judges}:count_a", tmp_path, split="train").quality.accuracy == 0.0
    with pytest.raises(DataError, match="there is no split 'dev'; it has test, train; name one with --split"):
        stages.evaluate(f"{judges}:count_a", tmp_path, split="dev")
    with pytest.raises(DataError, match="a file of lines has no splits"):
        stages.evaluate(f"{judges}:count_a", tmp_path / "test.jsonl", split="test")


def test_texts_with_the_template_applied_are_warned_of(reward_run, folder, tmp_path, capsys):
    rows = [{"prompt": "The cat", "chosen": "sat <eos>", "rejected": "rose"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    stages.evaluate(folder, tmp_path / "rows.jsonl")
    assert "1 of 2 rows spell special tokens" in capsys.readouterr().err
    stages.evaluate(folder, tmp_path / "rows.jsonl", templated=True)
    assert "special tokens" not in capsys.readouterr().err


def test_an_export_of_a_labelling_tool_is_a_row_a_person(tmp_path, judges):
    """Two people in one record are two rows of one prompt; both scorers are right on one of them."""
    record = {
        "fields": {"prompt": "Hi.", "response_1": "a a", "response_2": "low"},
        "responses": {"better": [{"value": "response_1", "user_id": "ann"}, {"value": "response_2", "user_id": "bo"}]},
    }
    (tmp_path / "export.json").write_text(json.dumps([record]))
    found = stages.evaluate_beside(f"{judges}:count_a", f"{judges}:length", tmp_path / "export.json")
    assert (found.first.quality.n, found.first.quality.accuracy, found.difference.n) == (2, 0.5, 2)
    # One prompt is all there is to resample, so the interval is that of two rows.
    assert found.first.quality.accuracy_ci == pytest.approx(evaluation.wilson(1, 2))


def test_golden_items_are_a_figure_of_their_own(tmp_path, judges, pairs, capsys):
    golden = [
        {"prompt": "One", "a": "a", "b": "low", "preference": "a"},
        {"prompt": "Two", "chosen": "low", "rejected": "a"},
        {"prompt": "Three", "a": "a", "b": "low", "preference": "b", "golden": "a", "rater": "ann"},  # ann was wrong
    ]
    write_jsonl(tmp_path / "golden.jsonl", golden)
    words = ["--data", str(pairs), "--golden", str(tmp_path / "golden.jsonl"), "--json", str(tmp_path / "out.json")]
    assert cli.run(["evaluate", f"{judges}:count_a", *words]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["golden"]
    assert (found["n"], found["accuracy"]) == (3, 2 / 3)
    assert found["missed"] == [f"{tmp_path}/golden.jsonl:2"]
    assert "golden items: agrees with 66.7% of 3; missed: " in capsys.readouterr().out


def test_two_scorers_on_the_same_rows(tmp_path, judges, pairs, capsys):
    first, second = f"{judges}:count_a", f"{judges}:length"
    words = ["evaluate", first, "--against", second, "--data", str(pairs), "--by", "meta.kind"]
    assert cli.run([*words, "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    alone = [stages.evaluate(name, pairs, by="meta.kind") for name in (first, second)]
    assert found["accuracy"] == alone[0].quality.accuracy
    assert found["against"]["accuracy"] == alone[1].quality.accuracy
    assert found["difference"] == pytest.approx(alone[0].quality.accuracy - alone[1].quality.accuracy)
    assert found["n"] == found["n_both"] == 800
    for kind in "xyz":
        apart = alone[0].by[kind].accuracy - alone[1].by[kind].accuracy
        assert found["difference_by"][kind]["difference"] == pytest.approx(apart)
    assert "the first is right more often" in capsys.readouterr().out
    itself = stages.evaluate_beside(first, tiny_task.count_a, pairs)
    assert itself.difference.difference_ci == (0.0, 0.0)


SEEN = """
import json
from pathlib import Path


def judge(prompts, responses):
    with Path(__file__).with_suffix(".jsonl").open("a") as file:
        for pair in zip(prompts, responses, strict=True):
            print(json.dumps(pair), file=file)
    return [float(r.count("a")) for r in responses]
"""


def test_two_policies_answer_the_same_prompts(ppo_run, sft_run, folder, tmp_path, capsys):
    """Counted from what the judge was shown: all answers of the one, then all of the other."""
    words = [(animal, word) for animal in ("cat", "hen") for word in ("and", "or")]
    prompts = [{"prompt": f"The {animal} {word}", "domain": word} for animal, word in words]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    (tmp_path / "judge.py").write_text(SEEN)
    words = ["evaluate", f"{folder}:ppo", "--against", f"{folder}:sft", "--data", str(tmp_path / "prompts.jsonl")]
    words += ["--by", "domain", "--samples", "2", "--max-new-tokens", "6", "--json", str(tmp_path / "out.json")]
    assert cli.run([*words, "--judge", f"{tmp_path}/judge.py:judge"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    shown = read(tmp_path / "judge.jsonl")
    sides = shown[:8], shown[8:]
    for side in sides:
        assert [prompt for prompt, _ in side] == [row["prompt"] for row in prompts for _ in range(2)]
    wins = [np.sign(x.count("a") - y.count("a")) / 2 + 0.5 for (_, x), (_, y) in zip(*sides, strict=True)]
    assert (found["n"], found["win_rate"]) == (8, np.mean(wins))
    assert {name: part["n"] for name, part in found["by"].items()} == {"and": 4, "or": 4}
    assert found["by"]["and"]["win_rate"] == np.mean(wins[:2] + wins[4:6])
    assert found["lengths"] == [np.mean([len(text) for _, text in side]) for side in sides]
    assert found["scores"] == [np.mean([text.count("a") for _, text in side]) for side in sides]
    said = capsys.readouterr().out
    assert "the ppo policy of" in said
    assert "at equal length" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--judge", "j.py:f"], "--judge compares two policies: name the other one, --against RUN2"),
        (["--judge", "j.py:f", "--reward", "r", "--against", "x"], "--judge and --reward both name"),
        (["--reward", "r", "--against", "x", "--golden", "g"], "--golden is about scores"),
        (["--samples", "2"], "--samples is about the answers of two policies"),
        (["--json", "/"], "--json"),
        (["--seed", "-1"], "--seed"),
    ],
    ids=["alone", "both", "golden", "samples", "folder", "seed"],
)
def test_options_that_do_not_go_together_are_refused(words, says, pairs, judges, capsys):
    assert cli.run(["evaluate", f"{judges}:count_a", "--data", str(pairs), *words]) == 2
    assert says in capsys.readouterr().err


def test_what_scores_nothing_is_refused_by_what_is_there(sft_run, judges, pairs, tmp_path, capsys):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "sft").symlink_to(sft_run.directory / "params" / "sft")
    with pytest.raises(RunError, match=r"scores no responses, it holds sft: expected a run folder with a reward model"):
        stages.evaluate(tmp_path, pairs)
    with pytest.raises(RunError, match="there is no such folder"):
        stages.evaluate(tmp_path / "none", pairs)
    with pytest.raises(RunError, match="name the function in it too"):
        stages.evaluate(str(judges), pairs)
    with pytest.raises(ValueError, match=r"the judge .*:broken must return one number for each response"):
        stages.evaluate(f"{judges}:broken", pairs)
    with pytest.raises(DataError, match=r"no row has the field 'nothing' \(--by\)"):
        stages.evaluate(f"{judges}:count_a", pairs, by="nothing")


def test_a_row_that_is_too_long_for_the_model_is_a_bad_row(reward_run, folder, tmp_path, capsys):
    rows = [{"prompt": "The cat", "chosen": "sat", "rejected": "rose " * n} for n in (2, 30_000)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"rows.jsonl:2: expected at most \d+ tokens, which the model reads"):
        stages.evaluate(folder, tmp_path / "rows.jsonl")
    found = stages.evaluate(folder, tmp_path / "rows.jsonl", on_bad_row="skip")
    assert (found.quality.n, found.left_out) == (1, 1)
    assert "left out 1 bad rows" in capsys.readouterr().err
