"""What people were shown and what they said, in a file that survives a crash: at most the click under way is lost.

A connection is opened for every piece of work, so that any thread, and several processes, may use one store.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_jax.compare import schema
from rlhf_jax.compare.errors import CompareError, StaleError
from rlhf_jax.compare.items import Item, Known
from rlhf_jax.compare.settings import Settings
from rlhf_jax.data.layouts.turns import messages
from rlhf_jax.data.rows import prompt_field

Kind = Literal["calibration", "golden", "repeat", "fresh"]
Verdict = Literal["a", "b", "tie", "both_bad", "skip"]
_HELD = 1800.0  # seconds for which a pair that a rater has before them counts as taken


class Rater(NamedTuple):
    """Somebody who compares."""

    id: int
    name: str


class Showing(NamedTuple):
    """One pair as one rater has it before them, or had."""

    id: str
    item: str
    kind: Kind
    flipped: bool  # b is on the left


class Answer(NamedTuple):
    """What a rater said of a pair, in the store's order, and stands by."""

    shown_id: str
    rater: str
    item: str
    kind: Kind
    verdict: Verdict
    strength: int  # 1 slightly, 2 clearly, 3 much
    seconds: float
    time: str  # ISO 8601, UTC


class History(NamedTuple):
    """What is known when a rater's next pair is chosen."""

    mine: list[Answer]  # the rater's own answers that stand, in their order
    taken: dict[str, int]  # item -> how many other raters have compared it, or have it before them


class Choice(NamedTuple):
    """The pair that a rater gets next."""

    item: str
    kind: Kind
    flipped: bool


class Store:
    """A store of comparisons that is there already; ``Store.create`` makes one.

    Args:
        path: the file.

    Raises:
        CompareError: there is none, it is something else, or another version's.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        schema.check(self.path)
        self.items = self._read_items()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a store that is there.

        Args:
            path: the file.

        Returns:
            The store.

        Raises:
            CompareError: as the constructor.
        """
        return cls(path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        items: Sequence[Item],
        golden: Sequence[Item],
        settings: Settings,
        *,
        source: str = "",
    ) -> Store:
        """Make a store of pairs; the file is there whole or not at all.

        Args:
            path: the file, which is not there yet; its folder is made.
            items: the pairs to be compared.
            golden: pairs whose answer is known, ``Item.golden``.
            settings: how they are compared.
            source: names where the pairs come from, so that opening it again with other pairs is noticed.

        Returns:
            The store, opened.

        Raises:
            CompareError: the file is there, a pair is there twice, or a golden item has no answer.
        """
        path = Path(path)
        if path.exists():
            raise CompareError(f"{path} is there already, and holds what people said; open it, or name another file")
        if unknown := [item for item in golden if item.golden is None]:
            raise CompareError(f"golden item {unknown[0].id} has no known answer: golden is None")
        if known := [item for item in items if item.golden is not None]:
            raise CompareError(f"item {known[0].id} has a known answer: it belongs among the golden ones")
        every = [*golden, *items]
        if len({item.id for item in every}) < len(every):
            raise CompareError("a pair is there twice; items.apart leaves such pairs out")
        if not every:
            raise CompareError("there is no pair to compare")
        path.parent.mkdir(parents=True, exist_ok=True)
        with schema.created(path) as db:
            db.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (item.id, place, json.dumps(prompt_field(item.prompt), ensure_ascii=False), *item[1:])
                    for place, item in enumerate(every)
                ],
            )
            _note(db, "settings", settings.to_json())
            _note(db, "source", source)
        return cls(path)

    def settings(self) -> Settings:
        """Read the settings that the store was last served with."""
        return Settings.from_json(self.noted("settings"))

    def noted(self, name: str) -> str:
        """Read a text that was noted; empty where there is none."""
        with schema.reading(self.path) as db:
            found = db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return "" if found is None else str(found["value"])

    def note(self, name: str, value: str) -> None:
        """Write a text beside the answers, in place of the one of that name: ``settings``, ``source``, ``port``."""
        with schema.writing(self.path) as db:
            _note(db, name, value)

    def add_rater(self, name: str) -> str:
        """Add a rater.

        Args:
            name: what the rater is called in the export.

        Returns:
            The token of their link; the file holds its hash alone, so it cannot be read again.

        Raises:
            CompareError: the name is empty or has line breaks, or there is a rater of that name.
        """
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise CompareError(f"rater {name!r:.120}: expected a name of 1 to 100 printable characters")
        token = secrets.token_urlsafe(24)
        with schema.writing(self.path) as db:
            if db.execute("SELECT 1 FROM raters WHERE name = ?", (name,)).fetchone():
                raise CompareError(f"there is a rater {name!r} already; new_token gives them another link")
            db.execute("INSERT INTO raters (name, token_hash, added) VALUES (?, ?, ?)", (name, _hash(token), _now()))
        return token

    def new_token(self, name: str) -> str:
        """Give a rater another token, in place of the one they had; what they said stays theirs.

        Args:
            name: the rater's.

        Returns:
            The token.

        Raises:
            CompareError: there is no such rater.
        """
        token = secrets.token_urlsafe(24)
        with schema.writing(self.path) as db:
            changed = db.execute("UPDATE raters SET token_hash = ? WHERE name = ?", (_hash(token), name))
            if not changed.rowcount:
                raise CompareError(f"there is no rater {name!r}")
        return token

    def rater_of(self, token: str) -> Rater | None:
        """Find whose token this is; hashes are compared in constant time.

        Args:
            token: as ``add_rater`` gave it.

        Returns:
            The rater, None for a token that is nobody's.
        """
        hashed, found = _hash(token), None
        with schema.reading(self.path) as db:
            for row in db.execute("SELECT id, name, token_hash FROM raters"):
                if hmac.compare_digest(hashed, row["token_hash"]):
                    found = Rater(row["id"], row["name"])
        return found

    def raters(self) -> list[Rater]:
        """List the raters in the order in which they were added."""
        with schema.reading(self.path) as db:
            return [Rater(row["id"], row["name"]) for row in db.execute("SELECT id, name FROM raters ORDER BY id")]

    def hand_out(self, rater: Rater, choose: Callable[[History], Choice | None]) -> Showing | None:
        """Give the pair that a rater has before them, or choose one and write down that it was handed out.

        Args:
            rater: who asks.
            choose: the next pair for what is known; None where nothing is left. No other rater is served meanwhile.

        Returns:
            The same showing until it is answered, also after a restart.
        """
        with schema.writing(self.path) as db:
            if there := _open_showing(db, rater):
                return there
            chosen = choose(History(_answers(db, rater), _taken(db, rater)))
            return None if chosen is None else _hand_out(db, rater, chosen)

    def record(self, rater: Rater, shown_id: str, verdict: Verdict, strength: int = 1, seconds: float = 0.0) -> Answer:
        """Write down what a rater says of the pair before them; it is on the disk when this returns.

        Args:
            rater: who says it.
            shown_id: the showing's; sent twice it counts once, as it was sent first.
            verdict: in the store's order, or "skip".
            strength: 1 slightly, 2 clearly, 3 much.
            seconds: how long the rater took.

        Returns:
            The answer that stands.

        Raises:
            StaleError: the rater has not this pair before them: it was undone, or is somebody else's.
            CompareError: a value is not one of those that there are.
        """
        if verdict not in ("a", "b", "tie", "both_bad", "skip"):
            raise CompareError(f"verdict {verdict!r:.40}: expected a, b, tie, both_bad or skip")
        if isinstance(strength, bool) or strength not in (1, 2, 3):
            raise CompareError(f"strength {strength!r:.40}: expected 1, 2 or 3")
        if not math.isfinite(seconds) or seconds < 0:
            raise CompareError(f"seconds {seconds!r:.40}: expected a number of at least 0")
        with schema.writing(self.path) as db:
            row = db.execute("SELECT * FROM showings WHERE id = ? AND rater = ?", (shown_id, rater.id)).fetchone()
            if row is None or row["state"] in ("undone", "withdrawn"):
                raise StaleError(f"pair {shown_id!r:.40} is not before {rater.name} any more; show the present one")
            if row["state"] == "open":
                db.execute("UPDATE showings SET state = 'answered' WHERE id = ?", (shown_id,))
                db.execute(
                    "INSERT INTO answers (shown, verdict, strength, seconds, time) VALUES (?, ?, ?, ?, ?)",
                    (shown_id, verdict, int(strength), float(seconds), _now()),
                )
            return _answers(db, rater, shown_id)[0]

    def flipped(self, rater: Rater, shown_id: str) -> bool:
        """Look up whether b is on the left of a showing.

        Args:
            rater: whose page it is on.
            shown_id: the showing's.

        Raises:
            StaleError: the rater was never shown it.
        """
        with schema.reading(self.path) as db:
            row = db.execute("SELECT * FROM showings WHERE id = ? AND rater = ?", (shown_id, rater.id)).fetchone()
        if row is None:
            raise StaleError(f"pair {shown_id!r:.40} is not before {rater.name} any more; show the present one")
        return _showing(row).flipped

    def undo(self, rater: Rater) -> Showing | None:
        """Take a rater's last answer back, and put its pair before them again, the same side left.

        The answer stays in the file, marked; a pair that was before the rater goes back among those to come. An answer
        to a calibration item stands, as the rater has been told what is right.

        Args:
            rater: who undoes.

        Returns:
            The pair, with another id; None where there is nothing to undo.
        """
        with schema.writing(self.path) as db:
            own = _answers(db, rater)
            if not own or own[-1].kind == "calibration":
                return None
            last = own[-1]
            row = db.execute("SELECT * FROM showings WHERE id = ?", (last.shown_id,)).fetchone()
            db.execute("UPDATE showings SET state = 'withdrawn' WHERE rater = ? AND state = 'open'", (rater.id,))
            db.execute("UPDATE showings SET state = 'undone' WHERE id = ?", (last.shown_id,))
            db.execute("UPDATE answers SET undone = ? WHERE shown = ?", (_now(), last.shown_id))
            return _hand_out(db, rater, Choice(row["item"], row["kind"], bool(row["flipped"])))

    def history(self, rater: Rater) -> History:
        """Read what a rater's next pair would be chosen by."""
        with schema.reading(self.path) as db:
            return History(_answers(db, rater), _taken(db, rater))

    def labels(self) -> list[Answer]:
        """Read all answers that stand, skips too, in the order in which they were given."""
        with schema.reading(self.path) as db:
            return _answers(db)

    def _read_items(self) -> dict[str, Item]:
        with schema.reading(self.path) as db:
            rows = db.execute("SELECT * FROM items ORDER BY place").fetchall()
        found = {}
        for row in rows:
            said = json.loads(row["prompt"])
            prompt = said if isinstance(said, str) else messages(said, "prompt", f"{self.path}: item {row['id']}")
            golden: Known | None = row["golden"]
            more = [row[name] for name in Item._fields[4:]]
            found[str(row["id"])] = Item(prompt, row["a"], row["b"], golden, *more)
        return found


def _open_showing(db: sqlite3.Connection, rater: Rater) -> Showing | None:
    row = db.execute("SELECT * FROM showings WHERE rater = ? AND state = 'open'", (rater.id,)).fetchone()
    return None if row is None else _showing(row)


def _hand_out(db: sqlite3.Connection, rater: Rater, chosen: Choice) -> Showing:
    showing = Showing(secrets.token_hex(12), chosen.item, chosen.kind, chosen.flipped)
    db.execute(
        "INSERT INTO showings VALUES (?, ?, ?, ?, ?, ?, 'open')",
        (showing.id, rater.id, showing.item, showing.kind, int(showing.flipped), _now()),
    )
    return showing


def _showing(row: sqlite3.Row) -> Showing:
    return Showing(row["id"], row["item"], row["kind"], bool(row["flipped"]))


def _answers(db: sqlite3.Connection, rater: Rater | None = None, shown_id: str = "") -> list[Answer]:
    """The answers that stand, in their order: everybody's, a rater's, or the one to a showing."""
    found = db.execute(
        "SELECT standing.*, raters.name FROM standing JOIN raters ON raters.id = standing.rater "
        "WHERE (:rater = 0 OR standing.rater = :rater) AND (:shown = '' OR standing.shown = :shown) ORDER BY number",
        {"rater": 0 if rater is None else rater.id, "shown": shown_id},
    )
    names = ("shown", "name", "item", "kind", "verdict", "strength", "seconds", "time")
    return [Answer(*(row[name] for name in names)) for row in found]


def _taken(db: sqlite3.Connection, rater: Rater) -> dict[str, int]:
    """How many other raters have compared each pair, or have it before them since a short while."""
    since = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_HELD)).isoformat(timespec="milliseconds")
    rows = db.execute(
        "SELECT item, count(DISTINCT rater) AS raters FROM showings LEFT JOIN answers ON answers.shown = showings.id "
        "WHERE rater != ? AND kind = 'fresh' AND (state = 'answered' AND verdict != 'skip' "
        "OR state = 'open' AND showings.time > ?) GROUP BY item",
        (rater.id, since),
    )
    return {row["item"]: row["raters"] for row in rows}


def _note(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute(
        "INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
