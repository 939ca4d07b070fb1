"""Rows of ``metrics.jsonl`` as alarms read them, and what an alarm is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Alarm(NamedTuple):
    """Something that a person should look at."""

    name: str  # its kind; a history has at most one of each
    step: int  # where it first held
    message: str  # one plain sentence or two: what was seen, and what it usually means


def points_of(history: Sequence[Row], name: str) -> list[tuple[int, float]]:
    """List step and value of a figure, in the rows that have a finite one.

    Example:
        >>> points_of([{"step": 1, "kl": 0.5}, {"step": 2}, {"step": 3, "kl": math.nan}], "kl")
        [(1, 0.5)]
    """
    points = ((int(row["step"]), figure(row, name)) for row in history if name in row)
    return [(step, value) for step, value in points if value is not None]


def figure(row: Row, name: str) -> float | None:
    """Read a figure of a row; None where it is not there, or not finite."""
    value = row.get(name)
    return float(value) if value is not None and math.isfinite(value) else None
