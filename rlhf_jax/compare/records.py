"""What the store holds of raters, as plain values: who they are, what they were shown, what they said of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["calibration", "golden", "repeat", "fresh"]
Verdict = Literal["a", "b", "tie", "both_bad", "skip"]


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
