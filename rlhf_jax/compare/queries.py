"""The questions to a store's tables and the entries in them, each in the transaction of whoever asks."""

from __future__ import annotations

import datetime
import json
import secrets
import sqlite3
from pathlib import Path

from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Answer, Choice, History, Rater, Showing
from rlhf_jax.data.layouts.turns import messages

_HELD = 1800.0  # seconds for which a pair that a rater has before them counts as taken


def read_items(db: sqlite3.Connection, path: Path) -> dict[str, Item]:
    """Read all pairs, by name, in the order in which they were given."""
    found = {}
    for row in db.execute("SELECT * FROM items ORDER BY place"):
        said = json.loads(row["prompt"])
        prompt = said if isinstance(said, str) else messages(said, "prompt", f"{path}: item {row['id']}")
        # A store from before there were clips has no columns for them.
        there = set(row.keys())
        found[str(row["id"])] = Item(prompt, **{name: row[name] for name in Item._fields[1:] if name in there})
    return found


def history(db: sqlite3.Connection, rater: Rater) -> History:
    """Read what a rater's next pair is chosen by."""
    since = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_HELD)).isoformat(timespec="milliseconds")
    taken = db.execute(
        "SELECT item, count(DISTINCT rater) AS raters FROM showings LEFT JOIN answers ON answers.shown = showings.id "
        "WHERE rater != ? AND kind = 'fresh' AND (state = 'answered' AND verdict != 'skip' "
        "OR state = 'open' AND showings.time > ?) GROUP BY item",
        (rater.id, since),
    )
    return History(answers(db, rater), {row["item"]: row["raters"] for row in taken})


def answers(db: sqlite3.Connection, rater: Rater | None = None, shown_id: str = "") -> list[Answer]:
    """Read the answers that stand, in their order: everybody's, a rater's, or the one to a showing."""
    asked: list[str | int] = []
    text = "SELECT shown, raters.name, item, kind, verdict, strength, seconds, time FROM standing"
    text += " JOIN raters ON raters.id = standing.rater WHERE TRUE"
    if rater is not None:
        text, asked = f"{text} AND rater = ?", [*asked, rater.id]
    if shown_id:
        text, asked = f"{text} AND shown = ?", [*asked, shown_id]
    return [Answer(*row) for row in db.execute(f"{text} ORDER BY number", asked)]


def find_showing(db: sqlite3.Connection, rater: Rater, shown_id: str) -> tuple[Showing, str] | None:
    """Find a showing of a rater's, with its state: open, answered, undone or withdrawn."""
    row = db.execute("SELECT * FROM showings WHERE id = ? AND rater = ?", (shown_id, rater.id)).fetchone()
    return None if row is None else (_showing(row), str(row["state"]))


def open_showing(db: sqlite3.Connection, rater: Rater) -> Showing | None:
    """Find the pair that a rater has before them."""
    row = db.execute("SELECT * FROM showings WHERE rater = ? AND state = 'open'", (rater.id,)).fetchone()
    return None if row is None else _showing(row)


def hand_out(db: sqlite3.Connection, rater: Rater, chosen: Choice) -> Showing:
    """Write down that a rater has a pair before them."""
    given = Showing(secrets.token_hex(12), chosen.item, chosen.kind, chosen.flipped)
    db.execute(
        "INSERT INTO showings VALUES (?, ?, ?, ?, ?, ?, 'open')",
        (given.id, rater.id, given.item, given.kind, int(given.flipped), now()),
    )
    return given


def note(db: sqlite3.Connection, name: str, value: str) -> None:
    """Write a text beside the answers."""
    db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))


def now() -> str:
    """Tell the time as the store writes it, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _showing(row: sqlite3.Row) -> Showing:
    return Showing(row["id"], row["item"], row["kind"], bool(row["flipped"]))
