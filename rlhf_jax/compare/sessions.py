"""What a rater is shown and what becomes of their click: a store and its settings as the page sees them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from rlhf_jax.compare.agreement import agreement
from rlhf_jax.compare.choosing import Choosing
from rlhf_jax.compare.errors import CompareError
from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Answer, Rater, Showing, Verdict
from rlhf_jax.compare.settings import Settings
from rlhf_jax.compare.store import Store
from rlhf_jax.data.rows import Prompt

SaidOfSides = Literal["left", "right", "tie", "both_bad", "skip"]
_RECENT = 20  # answers that the rate is measured over
_PAUSE = 300.0  # seconds; a rater who goes away for longer has not taken longer


class Shown(NamedTuple):
    """A pair on a rater's page."""

    id: str  # names this showing alone
    prompt: Prompt
    left: str
    right: str
    kind: Literal["calibration", "item"]  # hidden golden items and repeats are items like any other
    left_clip: str = ""  # as the item's
    right_clip: str = ""
    answered: str | None = None  # what was said of the calibration item that the rater answered just before


class Answered(NamedTuple):
    """What a rater is told about their click."""

    correct: bool | None  # None where it is no calibration item, or was skipped
    explanation: str  # empty where it is no calibration item


class Progress(NamedTuple):
    """How far a rater is, and how people agree."""

    done: int  # answers that stand, skips too
    total: int
    per_hour: float  # over the last 20 answers; 0 where there are none
    calibrated: bool  # every calibration item is answered
    agreement: float | None  # with the majority of the others; None where nobody else has compared the same pairs
    alpha: float | None  # Krippendorff's, over all raters; None where it is not defined yet


class Session:
    """A store as the page sees it; any number of threads may use one.

    Args:
        store: what is compared, and what was said.
        settings: how.
    """

    def __init__(self, store: Store, settings: Settings):
        self.store, self.settings = store, settings
        self._choosing = Choosing(store.items, settings)

    def next(self, rater: Rater) -> Shown | None:
        """Show a rater the next pair: the same one until it is answered.

        Args:
            rater: who asks.

        Returns:
            The pair; None where nothing is left for this rater.
        """
        showing = self.store.hand_out(rater, lambda history: self._choosing(rater.name, history))
        if showing is None:
            return None
        own = self.store.history(rater).mine
        told = self._told(own[-1]).explanation if own and own[-1].kind == "calibration" else None
        return self._shown(showing)._replace(answered=told)

    def answer(
        self, rater: Rater, shown_id: str, verdict: SaidOfSides, strength: int = 1, seconds: float = 0.0
    ) -> Answered:
        """Record a click; it is on the disk when this returns.

        Args:
            rater: who clicked.
            shown_id: ``Shown.id``; a click that is sent twice counts once, as it was sent first.
            verdict: the side that is better, or what else was said.
            strength: 1 slightly, 2 clearly, 3 much.
            seconds: how long the rater took.

        Returns:
            Whether a calibration item was answered as it should be, and why.

        Raises:
            StaleError: the rater has not this pair before them any more.
            CompareError: a value is not one of those that there are.
        """
        if verdict not in ("left", "right", "tie", "both_bad", "skip"):
            raise CompareError(f"verdict {verdict!r:.40}: expected left, right, tie, both_bad or skip")
        flipped = self.store.showing(rater, shown_id).flipped
        if verdict == "left" or verdict == "right":
            said: Verdict = "b" if (verdict == "left") == flipped else "a"
        else:
            said = verdict
        return self._told(self.store.record(rater, shown_id, said, strength, seconds))

    def undo(self, rater: Rater) -> Shown | None:
        """Take the last click back and show its pair again.

        Args:
            rater: who undoes.

        Returns:
            The pair, as another showing; None where there is nothing to undo: a calibration item's answer stands.
        """
        showing = self.store.undo(rater)
        return None if showing is None else self._shown(showing)

    def progress(self, rater: Rater) -> Progress:
        """Measure how far a rater is, and how people agree by now.

        Args:
            rater: whose progress.
        """
        history = self.store.history(rater)
        left = self._choosing.remaining(rater.name, history)
        seen = {answer.item for answer in history.mine}
        recent = history.mine[-_RECENT:]
        took = sum(min(answer.seconds, _PAUSE) for answer in recent)
        found = agreement(self.store.labels(), self.store.items)
        own = found.raters.get(rater.name)
        return Progress(
            done=len(history.mine),
            total=len(history.mine) + left,
            per_hour=3600.0 * len(recent) / took if took else 0.0,
            calibrated=all(name in seen for name in self._choosing.calibration),
            agreement=None if own is None else own.others,
            alpha=found.alpha,
        )

    def _shown(self, showing: Showing) -> Shown:
        item = self.store.items[showing.item]
        left, right = (item.a, item.clip_a), (item.b, item.clip_b)
        if showing.flipped:
            left, right = right, left
        kind: Literal["calibration", "item"] = "calibration" if showing.kind == "calibration" else "item"
        return Shown(showing.id, item.prompt, left[0], right[0], kind, left[1], right[1])

    def _told(self, answer: Answer) -> Answered:
        if answer.kind != "calibration":
            return Answered(None, "")
        item = self.store.items[answer.item]
        said = "tie" if answer.verdict == "both_bad" else answer.verdict
        correct = None if said == "skip" else said == item.golden
        return Answered(correct, _explained(item, correct))


def _explained(item: Item, correct: bool | None) -> str:
    """What is right, by the response's first words: the sides are gone from the page by then."""
    better = {"a": item.a, "b": item.b}.get(item.golden or "")
    known = (
        "the two are equally good" if better is None else f"the better response is the one that begins {_begin(better)}"
    )
    judged = {True: "As agreed", False: "Not as agreed", None: "Skipped"}[correct]
    return f"{judged}: {known}." + (f" {item.explanation}" if item.explanation else "")


def _begin(text: str) -> str:
    one_line = " ".join(text.split())
    return f'"{one_line}"' if len(one_line) <= 60 else f'"{one_line[:57]}..."'
