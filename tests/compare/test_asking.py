"""A program that asks people in the middle of its work: it waits for all of them, and what was said once is there."""

import threading
import time

import pytest

pytest.importorskip("starlette", reason="the extra 'compare' is not installed: pip install starlette uvicorn")

from rlhf_jax import stages
from rlhf_jax.compare import CompareError, Session, Settings, Store

CLIP = {"width": 9, "height": 9, "fps": 5}
ROWS = [
    {
        "prompt": "Which?",
        "a": "one",
        "b": "two",
        "clip_a": {**CLIP, "frames": [[["circle", i, 1, 1, "ink"]]], "segment": f"a{i}"},
        "clip_b": {**CLIP, "frames": [[["circle", i, 2, 1, "ink"]]], "segment": f"b{i}"},
    }
    for i in range(3)
]


def test_it_waits_for_everybody_and_asks_nothing_twice(tmp_path, capsys):
    ask = stages.ask_people(str(tmp_path), ["ann", "bo"])

    def work():
        """Answer as soon as there is something to answer: the first clip of each pair, and skip the second pair."""
        deadline = time.monotonic() + 60
        while not (tmp_path / "round-0.sqlite").exists() or len(Store.open(tmp_path / "round-0.sqlite").raters()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        store = Store.open(tmp_path / "round-0.sqlite")
        session = Session(store, Settings(calibrate=0, hidden=0.0))
        for rater in store.raters():
            while shown := session.next(rater):
                verdict = "left" if '"a' in shown.left_clip else "right"
                session.answer(rater, shown.id, "skip" if '"a1"' in shown.left_clip + shown.right_clip else verdict)

    person = threading.Thread(target=work)
    person.start()
    rows = ask(0, ROWS)
    person.join()
    assert sorted((row["rater"], row["segment_a"], row["segment_b"], row["preference"]) for row in rows) == [
        (name, f"a{i}", f"b{i}", "a") for name in ("ann", "bo") for i in (0, 2)
    ]
    printed = capsys.readouterr().out
    assert "round 0: 3 pairs to compare" in printed
    assert "ann: http://127.0.0.1:" in printed
    assert ask(0, ROWS) == rows  # nobody is there, and nobody is asked
    with pytest.raises(CompareError, match="name another file"):
        ask(0, ROWS[:2])


def test_two_raters_of_one_name_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="found 'ann' twice"):
        stages.ask_people(str(tmp_path), ["ann", "ann"])
