"""What a policy found, at the end of a stage: the final comparison's responses and rewards under the monitors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.evaluation.log_rows import Alarm
from rlhf_jax.evaluation.monitors import LengthShare, Rise, finding_alarms, length_share, rising

# Fewer responses show no more than anybody sees by reading them.
FEWEST = 20

Row = Mapping[str, Any]


def monitor(rows: Sequence[Row], judge: str = "gold") -> dict[str, Any] | None:
    """Look for what rose with the reward, and for what length explains, in the rows of a final comparison.

    Args:
        rows: as in ``samples.jsonl``: ``before``, ``after``, ``proxy_before`` and ``proxy_after``; rows in which a
            reward is missing are left out.
        judge: whose scores are held against the reward's, where the rows have them.

    Returns:
        The figures ``monitors`` of a summary: ``compared``, ``rises`` and ``length``; None where fewer than ``FEWEST``
        rows have rewards.

    Example:
        >>> row = {"before": "it rains", "after": "it rains", "proxy_before": 0.0, "proxy_after": 0.0}
        >>> monitor([row] * 20)["rises"]
        []
    """
    known = [row for row in rows if all(_is_number(row.get(f"proxy_{when}")) for when in ("before", "after"))]
    if len(known) < FEWEST:
        return None
    before, after = ([str(row[when]) for row in known] for when in ("before", "after"))
    rewards = [[row[f"proxy_{when}"] for row in known] for when in ("before", "after")]
    scores: list[list[Any]] = [[row.get(f"{judge}_{when}") for row in known] for when in ("before", "after")]
    judged = (scores[0], scores[1]) if all(_is_number(x) for side in scores for x in side) else None
    lengths = [[len(text) for text in side] for side in (before, after)]
    return {
        "compared": len(known),
        "rises": [rise._asdict() for rise in rising(before, after, *rewards, judged=judged)],
        "length": length_share(*lengths, *rewards)._asdict(),
    }


def monitor_alarms(figures: Mapping[str, Any] | None, step: int) -> list[Alarm]:
    """Make alarms of what ``monitor`` found.

    Args:
        figures: what it returned, or what a summary has of it.
        step: whose parameters the stage left.
    """
    if not figures:
        return []
    length = LengthShare(**figures["length"])
    return finding_alarms([Rise(**rise) for rise in figures["rises"]], length, step=step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
