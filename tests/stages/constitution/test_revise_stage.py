"""The stage that revises: from a run and from a file, killed and gone on, and what it refuses."""

from __future__ import annotations

import importlib
import json

import pytest

from rlhf_jax import stages
from rlhf_jax.data import DataError, write_jsonl
from rlhf_jax.data.config import DataConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError

MODULE = importlib.import_module("rlhf_jax.stages.constitution.revise")  # the function has its name
SHORT = SamplingConfig(max_new_tokens=6, window=4)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "kind.txt").write_text("kind: It is kind.\n\nbrief: It is brief.")
    write_jsonl(tmp_path / "said.jsonl", [{"prompt": "Hi.", "response": f"No {i}."} for i in range(10)])
    return tmp_path


def config(files, source=None, **changes):
    place = {"source": str(source or files / "said.jsonl"), "principles": str(files / "kind.txt")}
    return stages.ReviseConfig(
        **{**place, "to": str(files / "rows.jsonl"), "sampling": SHORT, "revising": SHORT, **changes}
    )


def yes(chats):
    """Every other response is revised; the rest are repeated."""
    said = [chat[1].content for chat in chats]
    return [f"Yes, {text[3:]} with pleasure" if text[3] in "02468" else text for text in said]


def test_a_file_becomes_rows_to_imitate_and_pairs(files):
    found = stages.revise(config(files, critique=False, rounds=1, pairs=str(files / "pairs.jsonl")), reviser=yes)
    written = rows(files / "rows.jsonl")
    assert [row["response"] for row in written][:2] == ["Yes, 0. with pleasure", "No 1."]
    assert [row["revision"]["sample"] for row in written] == list(range(10))
    assert len({row["revision"]["chain"][0]["principle"] for row in written}) == 2  # one prompt, and not one draw
    pairs = rows(files / "pairs.jsonl")
    assert (pairs[0]["chosen"], pairs[0]["rejected"]) == ("Yes, 0. with pleasure", "No 0.")
    assert len(pairs) == 5
    assert found.summary["revised"] == 0.5
    assert found.summary["rounds"] == [
        {"revised": 0.5, "echo": 0.5, "request": 0.0, "critique": 0.0, "unfinished": 0.0, "empty": 0.0}
    ]
    # Stages read both files.
    data = DataConfig(source=str(files / "rows.jsonl"))
    assert len(stages.sources.demonstrations(data).train) > 0
    from rlhf_jax.data import layouts
    from rlhf_jax.data.one_file import read_rows

    assert read_rows(files / "pairs.jsonl", layouts.judged, "error")[0].said.source == "principle"


def test_only_what_was_revised_is_kept_where_that_is_asked_for(files):
    stages.revise(config(files, critique=False, keep="revised"), reviser=yes)
    assert [row["response"][:3] for row in rows(files / "rows.jsonl")] == ["Yes"] * 5


def test_a_call_that_was_killed_goes_on_and_writes_the_same(files, monkeypatch):
    monkeypatch.setattr(MODULE, "AT_ONCE", 4)
    stages.revise(config(files), reviser=yes)
    whole = (files / "rows.jsonl").read_bytes()
    asked = []

    def counted(chats):
        asked.append(len(chats))
        return yes(chats)

    chains = files / "rows.revisions" / "chains.jsonl"
    everything = chains.read_bytes()
    lines = everything.splitlines(keepends=True)
    for left in (b"", lines[0][:5], b"".join(lines[:4]), b"".join(lines[:6]) + lines[6][:9], everything):
        chains.write_bytes(left)
        (files / "rows.jsonl").unlink()
        monkeypatch.setattr(MODULE, "of_callable", lambda *_: {"is": "it", "sha256": ""})  # another function, no other
        stages.revise(config(files), reviser=counted)
        assert (files / "rows.jsonl").read_bytes() == whole
        assert chains.read_bytes() == everything
    # Two rounds of a critique and a revision: 10 + 10 + 6 + 6 + 0 responses are made again.
    assert sum(asked) == 4 * (10 + 10 + 6 + 6)


def test_other_principles_do_not_go_on_with_the_chains(files):
    stages.revise(config(files), reviser=yes)
    (files / "kind.txt").write_text("# a comment is no change\nkind: It is kind.\n\nbrief: It is brief.")
    stages.revise(config(files), reviser=yes)
    (files / "kind.txt").write_text("kind: It is very kind.")
    with pytest.raises(RunError, match=r"principles .* holds something else now: name another file with --to"):
        stages.revise(config(files), reviser=yes)
    with pytest.raises(RunError, match="examples, rounds, critique, seed, sampling"):
        stages.revise(config(files, rounds=3), reviser=yes)


def test_a_policy_answers_and_revises_itself(files, sft_run, tables):
    settings = {"prompts": str(tables / "prompts.jsonl"), "limit": 2, "samples": 2, "rounds": 1, "critique": False}
    found = stages.revise(config(files, sft_run.directory, **settings))
    assert [row["sample"] for row in found.rows] == [0, 1] * 2
    assert found.rows[0]["first"] != found.rows[1]["first"]
    (files / "rows.revisions" / "chains.jsonl").unlink()
    assert stages.revise(config(files, sft_run.directory, **settings)).rows == found.rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "none"}, "there is no such run folder or file of responses"),
        ({}, "name who revises them with --reviser"),
        ({"prompts": "p.jsonl"}, "leave --prompts p.jsonl out"),
    ],
)
def test_what_cannot_be_revised(files, changes, said):
    with pytest.raises(RunError, match=said):
        stages.revise(config(files, **changes))
    assert not (files / "rows.jsonl").exists()


def test_a_reviser_that_says_too_little_is_named(files):
    with pytest.raises(ValueError, match="must return a text for each of 10 chats"):
        stages.revise(config(files), reviser=lambda chats: ["Yes."])


def test_configs_that_mean_nothing():
    place = {"source": "a.jsonl", "principles": "p.txt"}
    for changes in ({"to": "rows.txt"}, {"to": "a.jsonl", "pairs": "a.jsonl"}, {"to": "a.jsonl", "rounds": 0}):
        with pytest.raises(ValueError, match=r"jsonl|rounds"):
            stages.ReviseConfig(**place, **changes)


def test_examples_are_earlier_turns(files):
    shown = {"prompt": "Ho.", "response": "No!", "critique": "Rude.", "revision": "Yes!"}
    write_jsonl(files / "shown.jsonl", [shown, {**shown, "revision": "Yes.", "principle": "brief"}])
    seen = []

    def say(chats):
        seen.extend(chats)
        return ["Yes, with pleasure"] * len(chats)

    found = stages.revise(config(files, examples=str(files / "shown.jsonl"), rounds=1), reviser=say)
    for row, first, second in zip(found.rows, seen[:10], seen[10:], strict=True):
        count = 2 if row["chain"][0]["principle"] == "brief" else 1
        assert [turn.role for turn in first] == ["user", "assistant"] * (2 * count + 1) + ["user"]
        assert [turn.content for turn in second].count("Rude.") == count
        assert [turn.role for turn in second] == ["user", "assistant"] * (3 * count + 2) + ["user"]
        assert second[-4].content == row["first"]
    for wrong, said in (
        ([{**shown, "principle": "odd"}], "shown.jsonl:1: field 'principle': expected one of 'brief', 'kind'"),
        ([shown, {"prompt": "Ho."}], "shown.jsonl:2: field 'response'"),
        ([{**shown, "revision": ""}], "shown.jsonl:1: field 'revision': expected non-empty text"),
    ):
        write_jsonl(files / "shown.jsonl", wrong)
        with pytest.raises(DataError, match=said):
            stages.revise(config(files, examples=str(files / "shown.jsonl")), reviser=say)
