"""What people said as rows: every stage reads them, and nothing that was undone or hidden is among them."""

import json
from datetime import datetime

import pytest

from rlhf_jax import compare
from rlhf_jax.compare import CompareError
from rlhf_jax.data import layouts, read_jsonl


def test_the_export_is_read_as_what_was_preferred(make, label, tmp_path):
    store, session, raters = make("ann", "bo", calibrate=2, hidden=0.3, round=3)
    label(session, raters["ann"])
    label(session, raters["bo"], lambda shown: "right" if shown.left.startswith("good") else "left")
    count = compare.export(store.path, tmp_path / "new" / "rows.jsonl")
    rows, bad = read_jsonl(tmp_path / "new" / "rows.jsonl", lambda row, where: (row, layouts.comparison(row, where)))
    assert bad == []
    assert len(rows) == count
    for row, pair in rows:
        assert pair.responses[0].startswith("good")  # in the store's order, whichever was left
        assert pair.votes[0, 1] == (row["rater"] == "ann")
        said = pair.said
        assert said.time == datetime.fromisoformat(row["time"]).timestamp()
        assert (said.rater, said.confidence, said.source, said.round) == (row["rater"], 2 / 3, "person", 3)
        assert said.golden == (1.0 if "golden" in row else None)
    golden = [row for row, _ in rows if "golden" in row]
    assert {row["golden"] for row in golden} == {"a"}
    assert len({(row["rater"], row["pair"]) for row, _ in rows}) == len(rows)  # repeats are no second votes
    assert sum("golden" not in row for row, _ in rows) == 2 * 12


def test_skips_and_what_was_undone_are_left_out(make, tmp_path):
    store, session, raters = make("ann", golden=[], hidden=0.0)
    ann = raters["ann"]
    for verdict in ("skip", "tie", "both_bad", "left"):
        session.answer(ann, session.next(ann).id, verdict, 1, 1.0)
    session.undo(ann)
    compare.export(store.path, tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["preference"] for row in rows] == ["tie", "tie"]
    assert [row.get("both_bad") for row in rows] == [None, True]


def test_nothing_said_is_no_file(make, tmp_path):
    store, _, _ = make("ann")
    with pytest.raises(CompareError, match="nobody has compared"):
        compare.export(store.path, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()
