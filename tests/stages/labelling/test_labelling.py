"""Judges that vote label pairs: rows that stages read, what is left out, going on after a kill, other judges."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax import data, stages
from rlhf_jax.data.one_file import left_alone
from rlhf_jax.feedback.judges import Verdicts, from_scores, of_both_orders
from rlhf_jax.judges import JudgeConfig
from rlhf_jax.stages import LabelConfig, label
from rlhf_jax.stages.labelling import groups

JUDGES = """
def longer(prompts, responses):
    return [0.5 + 0.5 * (len(a) > len(b)) - 0.5 * (len(a) < len(b)) for a, b in responses]


def length(prompts, responses):
    return [float(len(text)) for text in responses]
"""


def count(prompts, responses):
    return [float(text.count("a")) for text in responses]


def pairs(tmp_path, rows, name="pairs.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def read(path):
    return [json.loads(line) for line in open(path, encoding="utf-8").read().split("\n") if line]


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def test_rows_of_a_file_are_read_as_comparisons(tmp_path):
    source = pairs(
        tmp_path, [{"prompt": "Hi.", "responses": ["a", "aaa", "aa"]}, {"prompt": "Ho.", "a": "b", "b": "a"}]
    )
    found = label(LabelConfig(source=source, to=str(tmp_path / "rows.jsonl"), round=2), judge=from_scores(count))
    assert [(row["a"], row["b"]) for row in found.rows] == [("a", "aaa"), ("a", "aa"), ("aaa", "aa"), ("b", "a")]
    row = found.rows[0]
    assert row["preference"] == pytest.approx(1 / (1 + np.e**2), abs=1e-6)
    assert (row["source"], row["round"], row["score_a"], row["score_b"]) == ("judge", 2, 1.0, 3.0)
    assert found.rows == read(found.path)
    parsed = data.layouts.comparison(row, "here")
    assert parsed.votes[0, 1] == pytest.approx(row["preference"])
    assert (parsed.said.source, parsed.said.round, parsed.said.rater) == ("judge", 2, row["rater"])


def test_reading_a_labelled_file_leaves_no_field_unknown(tmp_path, capsys):
    def shown(prompts, responses):
        both = np.tile(np.array([[0, 0.9], [0.6, 0]], np.float32), (len(prompts), 1, 1))
        return Verdicts(of_both_orders(both), shown=both, scores=np.ones((len(prompts), 2), np.float32))

    source = pairs(tmp_path, [{"prompt": "Hi.", "a": "x", "b": "y"}])
    found = label(LabelConfig(source=source, to=str(tmp_path / "rows.jsonl"), rater="it"), judge=shown)
    assert found.rows[0]["preference"] == pytest.approx(0.65)  # (0.9 + 1 - 0.6) / 2
    assert (found.rows[0]["shown_first"], found.rows[0]["shown_second"]) == (0.9, 0.4)
    assert found.summary["first_share"] == pytest.approx(0.75)  # (0.9 + 0.6) / 2
    assert found.summary["order_flips"] == 1.0
    label(LabelConfig(source=str(found.path), to=str(tmp_path / "again.jsonl")), judge=shown)
    assert "left alone" not in capsys.readouterr().err
    assert left_alone(found.rows) == ""


def test_an_abstention_is_no_vote_and_is_asked_again(tmp_path):
    rows = [{"prompt": f"Prompt {i}.", "a": "x", "b": "yy"} for i in range(5)]
    config = LabelConfig(source=pairs(tmp_path, rows), to=str(tmp_path / "rows.jsonl"), rater="it")
    asked = []

    def shy(prompts, responses):
        asked.append(list(prompts))
        return [np.nan if "3" in prompt and len(asked) == 1 else 1.0 for prompt in prompts]

    first = label(config, judge=shy)
    assert (first.summary["asked"], first.summary["votes"], first.summary["abstentions"]) == (5, 4, 1)
    assert all("3" not in row["prompt"] for row in first.rows)
    again = label(config, judge=shy)
    assert asked[1:] == [["Prompt 3."]]
    assert (again.summary["asked"], again.summary["votes"], again.summary["abstentions"]) == (1, 5, 0)
    assert label(config, judge=shy).summary["asked"] == 0
    assert len(asked) == 2


def test_responses_that_nobody_can_compare_are_left_out(tmp_path):
    source = pairs(tmp_path, [{"prompt": "Hi.", "a": "x", "b": "x "}, {"prompt": "Ho.", "responses": ["a", "b", "a"]}])
    found = label(LabelConfig(source=source, to=str(tmp_path / "rows.jsonl")), judge=from_scores(count))
    assert [(row["a"], row["b"]) for row in found.rows] == [("a", "b")]
    assert (found.summary["equal"], found.summary["empty"]) == (2, 0)


def test_several_judges_may_vote_in_one_file_and_none_under_anothers_name(tmp_path):
    file = tmp_path / "judges.py"
    file.write_text(JUDGES)
    source = pairs(tmp_path, [{"prompt": "Hi.", "a": "long", "b": "no"}])
    where = {"source": source, "to": str(tmp_path / "rows.jsonl")}
    one = label(LabelConfig(**where, judge=JudgeConfig(judge=f"{file}:longer")))
    other = label(LabelConfig(**where, judge=JudgeConfig(judge=f"scores:{file}:length")))
    assert [row["rater"] for row in read(one.path)] == ["judges.py:longer", "scores:judges.py:length"]
    assert len(one.rows) == len(other.rows) == 1
    with pytest.raises(
        stages.RunError, match=r"another rater judges\.py:longer \(it was .*judges\.py:longer\): .*--rater"
    ):
        label(LabelConfig(**where, rater="judges.py:longer", judge=JudgeConfig(judge=f"scores:{file}:length")))
    with pytest.raises(ValueError, match="one judge"):
        label(LabelConfig(**where))


def test_samples_of_a_run_are_drawn_once_for_its_training_prompts(folder, sft_run, tmp_path, monkeypatch):
    config = LabelConfig(source=str(folder), to=str(tmp_path / "rows.jsonl"), limit=6, samples=3)
    found = label(config, judge=from_scores(count))
    asked = {row["prompt"] for row in read(tmp_path / "rows.labels" / "samples.jsonl")}
    assert len(asked) == 6
    held, _ = stages.people.prompts.prompts_of_run(str(folder), "test")
    assert not asked & set(held)
    assert {row["prompt"] for row in found.rows} <= asked
    assert all(row["preference"] > 0.5 for row in found.rows if row["a"].count("a") > row["b"].count("a"))
    monkeypatch.setattr(groups, "sample", None)  # nothing is sampled again
    other = label(dataclasses.replace(config, rater="other"), judge=from_scores(count))
    assert [row["pair"] for row in other.rows] == [row["pair"] for row in found.rows]
    with pytest.raises(stages.RunError, match=r"another set of samples .* was another then"):
        label(
            LabelConfig(source=str(folder), to=str(tmp_path / "rows.jsonl"), limit=6, seed=1), judge=from_scores(count)
        )


KILLED = """
import os, signal


def longer(prompts, responses):
    with open(os.path.join(os.path.dirname(__file__), "left")) as file:
        left = int(file.read())
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(os.path.join(os.path.dirname(__file__), "left"), "w") as file:
        file.write(str(left - 1))
    return [float(len(a) > len(b)) for a, b in responses]
"""
LABEL = """
import sys
from rlhf_jax.judges import JudgeConfig
from rlhf_jax.stages.labelling import LabelConfig, label, run

run.AT_ONCE = 2
label(LabelConfig(source=sys.argv[1], to=sys.argv[2], judge=JudgeConfig(judge=sys.argv[3])))
"""


def test_a_call_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "killed.py").write_text(KILLED)
    judge, left = f"{tmp_path / 'killed.py'}:longer", tmp_path / "left"
    source = pairs(tmp_path, [{"prompt": f"Prompt {i}.", "a": "x" * (1 + i % 7), "b": "yyyy"} for i in range(9)])
    left.write_text("99")
    whole = label(LabelConfig(source=source, to=str(tmp_path / "whole.jsonl"), judge=JudgeConfig(judge=judge)))
    to = tmp_path / "killed.jsonl"
    left.write_text("2")
    killed = subprocess.run([sys.executable, "-c", LABEL, source, str(to), judge], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read(to)) == 4
    with to.open("a") as file:
        file.write('{"prompt": "torn')
    left.write_text("99")
    found = label(LabelConfig(source=source, to=str(to), judge=JudgeConfig(judge=judge)))
    assert found.summary["asked"] == 5
    assert without_time(read(to)) == without_time(found.rows) == without_time(whole.rows)


def test_a_judge_that_failed_before_its_first_vote_may_be_mended(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(prompts, responses):\n    return [2.0] * len(prompts)\n")
    source = pairs(tmp_path, [{"prompt": "Hi.", "a": "long", "b": "no"}])
    config = LabelConfig(source=source, to=str(tmp_path / "rows.jsonl"), judge=JudgeConfig(judge=f"{file}:mine"))
    with pytest.raises(ValueError, match="shares from 0"):
        label(config)
    file.write_text("def mine(prompts, responses):\n    return [1.0] * len(prompts)\n")
    assert [row["preference"] for row in label(config).rows] == [1.0]
    file.write_text("def mine(prompts, responses):\n    return [0.0] * len(prompts)\n")
    with pytest.raises(stages.RunError, match="another rater"):
        label(config)


def test_what_others_wrote_stays_whole(tmp_path):
    theirs = {"prompt": "Hi.", "a": "x", "b": "y", "preference": "a", "rater": "ann"}
    to = tmp_path / "rows.jsonl"
    to.write_text(json.dumps(theirs))  # without the end of the line
    source = pairs(tmp_path, [{"prompt": "Hi.", "a": "aa", "b": "a"}])
    label(LabelConfig(source=source, to=str(to), rater="it"), judge=from_scores(count))
    assert [row["rater"] for row in read(to)] == ["ann", "it"]


def test_a_file_of_something_else_is_not_added_to(tmp_path):
    chosen = pairs(tmp_path, [{"prompt": "Hi.", "chosen": "aa", "rejected": "a"}])
    other = pairs(tmp_path, [{"prompt": "Ho.", "a": "aa", "b": "a"}], "other.jsonl")
    before = Path(chosen).read_text()
    with pytest.raises(stages.RunError, match=r"pairs\.jsonl:1: expected a row of prompt, a, b.*--to"):
        label(LabelConfig(source=other, to=chosen), judge=from_scores(count))
    with pytest.raises(ValueError, match="the file whose pairs are labelled"):
        label(LabelConfig(source=other, to=other), judge=from_scores(count))
    assert Path(chosen).read_text() == before
