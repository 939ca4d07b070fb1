"""What people were shown and what they said, in a file that survives a crash: at most the click under way is lost.

A connection is opened for every piece of work, so that any thread, and several processes, may use one store.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import secrets
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_jax.compare import queries, schema
from rlhf_jax.compare.errors import CompareError, StaleError
from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Answer, Choice, History, Rater, Showing, Verdict
from rlhf_jax.compare.settings import Settings
from rlhf_jax.data.rows import prompt_field


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
        weakref.finalize(self, schema.held(self.path).close)
        with schema.reading(self.path) as db:
            self.items = queries.read_items(db, self.path)

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
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (item.id, place, json.dumps(prompt_field(item.prompt), ensure_ascii=False), *item[1:])
                    for place, item in enumerate(every)
                ],
            )
            queries.note(db, "settings", settings.to_json())
            queries.note(db, "source", source)
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
            queries.note(db, name, value)

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
            db.execute(
                "INSERT INTO raters (name, token_hash, added) VALUES (?, ?, ?)", (name, _hash(token), queries.now())
            )
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
            if there := queries.open_showing(db, rater):
                return there
            chosen = choose(queries.history(db, rater))
            return None if chosen is None else queries.hand_out(db, rater, chosen)

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
            found = queries.find_showing(db, rater, shown_id)
            if found is None or found[1] in ("undone", "withdrawn"):
                raise StaleError(f"pair {shown_id!r:.40} is not before {rater.name} any more; show the present one")
            if found[1] == "open":
                db.execute("UPDATE showings SET state = 'answered' WHERE id = ?", (shown_id,))
                db.execute(
                    "INSERT INTO answers (shown, verdict, strength, seconds, time) VALUES (?, ?, ?, ?, ?)",
                    (shown_id, verdict, int(strength), float(seconds), queries.now()),
                )
            return queries.answers(db, rater, shown_id)[0]

    def showing(self, rater: Rater, shown_id: str) -> Showing:
        """Look up what a rater was shown.

        Args:
            rater: whose page it is or was on.
            shown_id: the showing's.

        Raises:
            StaleError: the rater was never shown it.
        """
        with schema.reading(self.path) as db:
            found = queries.find_showing(db, rater, shown_id)
        if found is None:
            raise StaleError(f"pair {shown_id!r:.40} is not before {rater.name} any more; show the present one")
        return found[0]

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
            own = queries.answers(db, rater)
            if not own or own[-1].kind == "calibration":
                return None
            last = own[-1]
            db.execute("UPDATE showings SET state = 'withdrawn' WHERE rater = ? AND state = 'open'", (rater.id,))
            db.execute("UPDATE showings SET state = 'undone' WHERE id = ?", (last.shown_id,))
            db.execute("UPDATE answers SET undone = ? WHERE shown = ?", (queries.now(), last.shown_id))
            row = db.execute("SELECT flipped FROM showings WHERE id = ?", (last.shown_id,)).fetchone()
            return queries.hand_out(db, rater, Choice(last.item, last.kind, bool(row["flipped"])))

    def history(self, rater: Rater) -> History:
        """Read what a rater's next pair would be chosen by."""
        with schema.reading(self.path) as db:
            return queries.history(db, rater)

    def labels(self) -> list[Answer]:
        """Read all answers that stand, skips too, in the order in which they were given."""
        with schema.reading(self.path) as db:
            return queries.answers(db)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
