"""The command that has a judge label a file: what it prints, what it refuses, and principles in rows."""

import json

import numpy as np
import pytest

from rlhf_jax import cli
from rlhf_jax.data.one_file import left_alone
from rlhf_jax.feedback.judges import Verdicts
from rlhf_jax.stages.labelling.groups import Group
from rlhf_jax.stages.labelling.rows import Drawn, rows_of


@pytest.fixture
def here(tmp_path):
    (tmp_path / "judge.py").write_text(
        "def longer(prompts, responses):\n    return [float(len(a) > len(b)) for a, b in responses]\n"
    )
    row = {"prompt": "Hi.", "a": "Hello!", "b": "No."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_a_file_is_labelled_and_the_command_says_what_was_found(here, capsys):
    command = ["label", str(here / "pairs.jsonl"), "--judge", f"{here / 'judge.py'}:longer"]
    assert cli.run([*command, "--to", str(here / "rows.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "1 votes, 0 of them ties; 0 of the 1 pairs asked now got none" in out
    assert "share of the vote for the longer response" in out
    (row,) = (json.loads(line) for line in (here / "rows.jsonl").read_text().splitlines())
    assert (row["preference"], row["rater"]) == (1.0, "judge.py:longer")
    assert cli.run([*command, "--to", str(here / "rows.jsonl")]) == 0
    assert "0 of the 0 pairs asked now got none" in capsys.readouterr().out
    assert len((here / "rows.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.jsonl", "--judge", "judge.py:longer", "--to", "rows.jsonl"], "gone.jsonl: there is no such run folder"),
        (["pairs.jsonl", "--judge", "judge.py:longer", "--to", "rows.csv"], "to must name a .jsonl file"),
        (["pairs.jsonl", "--judge", "judge.py:shorter", "--to", "rows.jsonl"], "has no function 'shorter'"),
        (["pairs.jsonl", "--judge", "judge.py:longer", "--how", "scores", "--to", "rows.jsonl"], "no language model"),
        (
            ["pairs.jsonl", "--judge", "judge.py:longer", "--samples", "1", "--to", "x.jsonl"],
            "samples must be at least",
        ),
        (["pairs.jsonl", "--judge", " ", "--to", "rows.jsonl"], "judge must say who judges"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(words, says, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    assert cli.run(["label", *words]) == 2
    assert says in capsys.readouterr().err
    assert not (here / "rows.jsonl").exists()


def test_a_principle_that_was_drawn_stands_in_the_row():
    group = Group("Hi.", ("Hello!", "No."), ("", ""))
    said = Verdicts(np.array([[[0, 0.75], [0.25, 0]]]))
    drawn = Drawn(lambda prompt: f"kind to {prompt}", "c0ffee")
    (row,) = rows_of([group], said, rater="it", time="2026-01-01T00:00:00Z", round=0, principles=drawn)
    assert (row["source"], row["principle"], row["principles"]) == ("principle", "kind to Hi.", "c0ffee")
    assert left_alone([row]) == ""
