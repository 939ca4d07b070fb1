"""What a judge's labels look like in a few figures: votes, abstentions, and what the place of a response did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.evaluation.intervals import bootstrap_groups


def summarised(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the rows of one judge.

    Args:
        rows: as ``rows_of`` makes them, of any number of calls.

    Returns:
        ``votes``, how many there are; ``ties``, votes of exactly one half; ``decided``, the mean distance of a vote
        from one half, times two: 1 where every vote is whole; ``longer_share``, the mean share for the longer of two
        responses; and where the judge reads pairs in both orders ``first_share``, the mean share for whichever was
        shown first (1/2 where the place does nothing), and ``order_flips``, how many of the pairs the order decides.
        ``*_ci`` are 95% intervals that resample prompts.

    Example:
        >>> row = {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": 0.5, "shown_first": 0.9}
        >>> found = summarised([row | {"shown_second": 0.1}])
        >>> found["votes"], found["ties"], round(found["first_share"], 2), found["order_flips"]
        (1, 1, 0.9, 1.0)
    """
    votes = np.array([row["preference"] for row in rows], np.float64)
    prompts = [str(row["prompt"]) for row in rows]
    found: dict[str, Any] = {
        "votes": len(rows),
        "ties": int((votes == 0.5).sum()),
        "decided": float(np.abs(2 * votes - 1).mean()) if len(rows) else 0.0,
    }
    longer = np.array([np.sign(len(row["a"]) - len(row["b"])) for row in rows])
    uneven = np.flatnonzero(longer)
    if uneven.size:
        shares = np.where(longer > 0, votes, 1 - votes)[uneven]
        found |= _figure("longer_share", shares, [prompts[i] for i in uneven])
    shown = [i for i, row in enumerate(rows) if "shown_first" in row]
    if shown:
        first, second = (np.array([rows[i][name] for i in shown]) for name in ("shown_first", "shown_second"))
        own = [prompts[i] for i in shown]
        found |= _figure("first_share", (first + 1 - second) / 2, own)
        found |= _figure("order_flips", ((first - 0.5) * (second - 0.5) < 0).astype(np.float64), own)
    return found


def _figure(name: str, values: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
    interval = bootstrap_groups(values, prompts, seed=0, within=(0, 1))
    return {name: float(values.mean()), f"{name}_ci": list(interval)}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Say the figures of a summary to people.

    Args:
        summary: from ``stages.label``.
    """
    lines = [
        f"{summary['votes']:,} votes, {summary['ties']:,} of them ties; {summary['abstentions']:,} of the "
        f"{summary['asked']:,} pairs asked now got none"
    ]
    if summary["cost"]:
        lines[0] += f"; they cost {summary['cost']:,.4f}"
    said = {
        "first_share": "share of the vote for the response shown first (1/2 where the place does nothing)",
        "order_flips": "pairs whose winner the order decides",
        "longer_share": "share of the vote for the longer response",
    }
    for name, words in said.items():
        if name in summary:
            low, high = summary[f"{name}_ci"]
            lines.append(f"{summary[name]:.1%} ({low:.1%} to {high:.1%}): {words}")
    return lines
