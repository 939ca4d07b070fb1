"""A data set and what belongs to it as one record: ours, anybody's rows, or one that a user writes."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.data import Comparison, Demonstration, PromptRow
from rlhf_jax.data.parts import Parts
from rlhf_jax.stages import DataConfig, RunError, Task, find_task, human_sentiment, opinions, sources
from rlhf_jax.stages.baselines import baselines
from rlhf_jax.stages.held_out import pair_metrics
from rlhf_jax.stages.implicit_reward import implicit_reward_accuracy

FILE = """
import numpy as np
import tiny_task
from rlhf_jax.data import Demonstration, PromptRow, RatedResponse
from rlhf_jax.data.parts import Parts
from rlhf_jax.stages import Task, baselines as measured

TABLES = tiny_task.tables()


def parts(table, make):
    rows = [make(row, f"{table} {i}") for i, row in enumerate(TABLES[table])]
    return lambda config: Parts(rows[: len(rows) // 2], rows[len(rows) // 2 : -9], rows[-9:])


animals = Task(
    demonstrations=parts("demonstrations", lambda row, where: Demonstration(row["prompt"], row["response"], where)),
    prompts=parts("prompts", lambda row, where: PromptRow(row["prompt"], where)),
    opinions=parts(
        "ratings", lambda row, where: RatedResponse("About an animal", row["response"], np.array(row["ratings"]), where)
    ),
    judges=lambda: {"gold": tiny_task.count_a},
    baselines=lambda held: measured(held, {"a": lambda texts: np.array([text.count("a") for text in texts])}),
    domain=lambda prompt: "animals",
    instructions={"animals": "About an animal"},
)
nothing = Task()
number = 3
listed = Task(demonstrations=lambda config: [1])
mixed = Task(demonstrations=parts("prompts", lambda row, where: PromptRow(row["prompt"], where)))
empty = Task(demonstrations=lambda config: Parts([Demonstration("p", "r", "w")], [], []))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    file = tmp_path_factory.mktemp("task") / "animals.py"
    file.write_text(FILE)
    return f"{file}:animals"


def test_a_task_of_a_users_own_goes_through_all_stages(source, one_device, tmp_path):
    out = tmp_path / "run"

    def reads(config):
        return dataclasses.replace(config, data=DataConfig(source=source, max_length=32))

    sft = stages.sft(reads(tiny_task.sft_config(tmp_path, out)), mesh=one_device)
    assert sft.summary["training_rows"] == 36
    reward = stages.reward_model(reads(tiny_task.reward_config(tmp_path, out, init=out)), mesh=one_device)
    assert reward.summary["pairs_by_domain"].keys() == {"animals"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["baselines"].keys() >= {"a", "a_ci", "single_rater_by_domain"}
    assert summary["baselines"]["a"] > 0.7  # good responses hold more of the letter
    policy = stages.ppo(reads(tiny_task.ppo_config(tmp_path, out, policy=out, reward=out)), mesh=one_device)
    assert policy.summary["gold_after"] >= 0
    assert policy.summary["test_prompts"] == 8
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {row["domain"] for row in samples if "before" in row} == {"animals"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("number", r"data\.source .*: .*animals\.py has no stages\.Task 'number': it defines animals, nothing"),
        ("listed", r"the reader of demonstrations returned list; return data\.parts\.Parts"),
        ("mixed", r"expected demonstrations as Demonstration or Dialogue, found PromptRow"),
        ("empty", r"expected demonstrations as Demonstration or Dialogue, found an empty part"),
        ("animal", r"has no stages\.Task 'animal': did you mean 'animals'\?"),
        ("nothing", r"data\.source .*:nothing: this task has no demonstrations, which the stage reads"),
    ],
)
def test_what_is_no_task_is_named(source, name, says):
    config = DataConfig(source=source.replace(":animals", f":{name}"))
    with pytest.raises(RunError, match=says):
        sources.demonstrations(config)
    with pytest.raises(RunError, match="no such file"):
        find_task(DataConfig(source="gone.py:animals"))
    for field in ("heldout", "test", "split"):
        with pytest.raises(RunError, match=rf"data\.{field} x\.jsonl: a task of your own cuts its parts itself"):
            find_task(DataConfig(source=source, **{field: "x.jsonl"}))


def test_one_place_knows_the_quickstarts_data_set():
    task = find_task(DataConfig())
    assert (task.judges, task.domain) == (human_sentiment.TASK.judges, human_sentiment.TASK.domain)
    assert task.leaves_out_long
    assert task.domain("Write a tweet. So") == "tweets"
    assert task.domain("Tell me.") == task.domain((tiny_task.models, "a chat")) == ""
    assert find_task(DataConfig(source="a.jsonl")).judges() == {}


def test_baselines_without_ratings_have_no_single_person():
    pairs = np.array([[0, 1], [1, 2]])
    held = types.SimpleNamespace(
        texts=["aa", "b", "a"], ratings=[], pairs=pairs, share=np.array([1.0, 0.0]), domains=["x", "x", "x"]
    )
    found = baselines(held, {"a": lambda texts: np.array([t.count("a") for t in texts])})
    assert found["a"] == 1.0
    assert found["a_by_domain"] == {"x": 1.0}
    assert "single_rater" not in found


def test_text_is_what_is_imitated_where_a_task_has_no_text():
    parts = Parts(*([Demonstration("p", "r", name)] for name in "abc"))
    assert Task(demonstrations=lambda _: parts).asked("text", "x")(None) is parts


# ---- odd labels -----------------------------------------------------------------------------------------------------


def compared(first, longer, rows=60):
    """Rows of a and b: so many of them prefer a, so many the longer one."""
    found = []
    for i in range(rows):
        a_wins, long_wins = i < first * rows, (i * 7) % rows < longer * rows
        long_is_a = a_wins == long_wins
        a, b = ("a very long response", "short") if long_is_a else ("short", "a very long response")
        found.append({"prompt": f"p {i}", "a": a, "b": b, "preference": "a" if a_wins else "b"})
    return found


@pytest.mark.parametrize(
    ("first", "longer", "words"),
    [(0.95, 0.5, ["skewed: the first response is preferred in 95%"]), (0.5, 0.9, ["prefer the longer response in 90%"]),
     (0.5, 0.5, [])],
)  # fmt: skip
def test_labels_that_follow_place_or_length_warn_on_the_rows_as_they_came(
    first, longer, words, tmp_path, sft_run, capsys
):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in compared(first, longer)))
    config = DataConfig(source=str(file), max_length=64)
    for read in (
        lambda: opinions.comparisons(config, sft_run.tokenizer, group_size=2, seed=0),
        lambda: opinions.preferences(config, sft_run.tokenizer, min_share=0.5, seed=0),
    ):
        found = read().warnings
        assert len(found) == len(words)
        said = capsys.readouterr().err
        for text, expected in zip(found, words, strict=True):
            assert expected in text
            assert text in said


def test_rows_of_chosen_and_rejected_have_no_order_to_be_skewed(tables, sft_run):
    found = opinions.comparisons(tiny_task.data(tables, "chosen"), sft_run.tokenizer, group_size=2, seed=0)
    assert not any("skewed" in text for text in found.warnings)


def test_the_warnings_are_in_the_summary(tmp_path, folder, sft_run, one_device):
    rows = [{**row, "prompt": f"The cat {i}"} for i, row in enumerate(compared(0.95, 0.5))]
    (tmp_path / "skewed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_task.reward_config(tmp_path, tmp_path / "run", init=folder, table="skewed", epochs=1)
    reward = stages.reward_model(config, mesh=one_device)
    assert any("skewed" in text for text in reward.summary["warnings"])


# ---- two data sets of one stage -------------------------------------------------------------------------------------


def test_held_out_prompts_that_the_pairs_train_on_are_left_out(capsys):
    rows = Parts(*([PromptRow(text, text) for text in texts] for texts in (["a", "b"], ["c", "d"], ["e"])))
    kept = sources.without(rows, {"d", "e"})
    assert [[row.prompt for row in part] for part in kept[:3]] == [["a", "b"], ["c"], ["e"]]
    assert kept.notes == (
        "1 validation prompts are left out, because they are trained on",
        "every test prompt is one of those that are trained on: figures on them are not held out",
    )
    assert capsys.readouterr().err.count("warning: ") == 2
    assert sources.without(rows, {"z"}) == rows


def test_comparisons_of_three_responses_are_one_group_or_three_pairs(source, sft_run):
    """A reward model sees the ranking whole, an objective on pairs its pairs; both are measured on its pairs."""
    votes = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    three = [Comparison(f"p {i}", ("a", "b", "c"), votes, f"row {i}") for i in range(3)]
    task = Task(opinions=lambda _: Parts(three[:1], three[1:2], three[2:]))
    config, tokenizer = DataConfig(source="x.jsonl"), sft_run.tokenizer
    whole = opinions.comparisons(config, tokenizer, group_size=2, seed=0, task=task)
    assert [len(group.tokens) for group in whole.epoch(0)] == [3]
    np.testing.assert_array_equal(whole.epoch(0)[0].votes, votes)
    pairs = opinions.preferences(config, tokenizer, min_share=0.5, seed=0, task=task)
    assert [len(group.tokens) for group in pairs.epoch(0)] == [2, 2, 2]
    for found in (whole, pairs):
        held = found.test(1)
        # Every other pair is turned, so that what is preferred does not always stand first.
        texts = [tuple(held.texts[i] for i in pair) for pair in held.pairs]
        assert (texts, held.share.tolist()) == ([("a", "b"), ("c", "a"), ("b", "c")], [1, 0, 1])


def test_figures_on_ties_alone_are_none_and_nothing_fails():
    """After hours of training a test part of ties must not cost the run."""
    pairs = np.array([[0, 1]])
    held = types.SimpleNamespace(
        texts=["aa", "b"],
        ratings=[],
        pairs=pairs,
        share=np.array([0.5]),
        votes=np.full((1, 2, 2), 0.5),
        domains=["x", "x"],
    )
    assert implicit_reward_accuracy(np.array([1.0, 0.0]), held) == {"accuracy": None, "accuracy_ci": None, "pairs": 0}
    assert pair_metrics(np.array([1.0, 0.0]), held) == {
        "loss": pytest.approx(0.5 * (np.log1p(np.e) + np.log1p(1 / np.e)))
    }
    assert baselines(held, {"a": lambda texts: np.array([2.0, 0.0])})["a"] is None
