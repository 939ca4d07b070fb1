"""Kill -9 in the middle of answering: everything that was acknowledged is there, and at most one click more."""

import sqlite3
import subprocess
import sys

from good_and_bad import GOLDEN

from rlhf_jax.compare import Item, Session, Store

# Says what it was told is recorded, one line a click, until it is killed; every fifth answer is undone again.
RATING = """
import sys
from rlhf_jax.compare import Session, Store
store = Store.open(sys.argv[1])
rater, = [one for one in store.raters() if one.name == sys.argv[2]]
session, count = Session(store, store.settings()), 0
while shown := session.next(rater):
    session.answer(rater, shown.id, ("left", "right", "tie")[count % 3], 1, 1.0)
    print("said", shown.id, flush=True)
    count += 1
    if count % 5 == 0 and session.undo(rater):
        print("undone", shown.id, flush=True)
"""


def killed_while_rating(path, names, lines):
    """Let raters answer in processes of their own, kill each after so many clicks, and return what they were told."""
    started = [
        subprocess.Popen([sys.executable, "-c", RATING, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    told = []
    for process in started:
        told += [process.stdout.readline().split() for _ in range(lines)]
        process.kill()
    for process in started:
        told += [line.split() for line in process.stdout.read().splitlines()]
        assert process.wait() == -9
        process.stdout.close()
    return told


def test_at_most_the_click_under_way_is_lost(make):
    items = [Item(f"Question {i}?", f"a{i}", f"b{i}") for i in range(200)]
    store, _, raters = make("ann", "bo", items=items, golden=GOLDEN)
    said, undone = set(), set()
    for lines in (3, 7):
        for word, shown in killed_while_rating(store.path, ["ann", "bo"], lines):
            (said if word == "said" else undone).add(shown)
        again = Store.open(store.path)
        standing = {answer.shown_id for answer in again.labels()}
        with sqlite3.connect(store.path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept = {shown for (shown,) in db.execute("SELECT shown FROM answers")}
            taken_back = {shown for (shown,) in db.execute("SELECT shown FROM answers WHERE undone IS NOT NULL")}
        db.close()
        assert said <= kept
        assert len(kept - said) <= 2  # a click of each of the two raters, written and not yet told
        assert undone <= taken_back
        assert standing == kept - taken_back
        for rater in raters.values():  # what was before a rater still is
            session = Session(again, again.settings())
            assert session.next(rater) == session.next(rater)
        said = kept  # what was under way counts as told from now on
        undone = taken_back
