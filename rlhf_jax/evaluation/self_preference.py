"""Whether a judge prefers what it wrote itself, beyond what a judge who did not write it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, bootstrap_groups
from rlhf_jax.evaluation.length_control import length_controlled


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfPreference:
    """How often a judge prefers one policy's samples to another's, and how often gold does, with intervals of 95%."""

    n: int
    """Comparisons with a vote."""
    win_rate: float
    """Share that the first policy's sample wins by the judge."""
    gold_win_rate: float
    """The same by gold."""
    excess: float
    """The first less the second. A judge that votes at random is at one half wherever gold is, so that this figure
    holds the judge's errors too."""
    excess_ci: Interval
    """A bootstrap over prompts of the differences."""
    at_equal_gold: float
    """The judge's win rate where gold sees no difference: a logistic regression of its wins on gold's difference, read
    at 0. One half is no preference, for a judge of any accuracy."""
    at_equal_gold_ci: Interval
    """Its interval, a bootstrap over prompts."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in dataclasses.asdict(self).items()}


def self_preference(
    votes: ArrayLike, gold: ArrayLike, prompts: Sequence[str], *, seed: int = 0
) -> SelfPreference | None:
    """Compare what a judge and gold say of one policy's samples against another's.

    Args:
        votes: [n], the judge's share for the first policy's sample; NaN where it abstained.
        gold: [n], by how much gold scores that sample above the other policy's.
        prompts: [n], which prompt each comparison is of.
        seed: what the intervals depend on.

    Returns:
        The figures; None where the judge abstained everywhere.

    Raises:
        ValueError: if the shapes disagree, a vote is outside [0, 1], or a gold score is not finite.

    Example:
        >>> gold = [1.0, -1.0, 2.0, -2.0, 0.5, -0.5]
        >>> found = self_preference([1.0, 1.0, 1.0, 0.0, 1.0, 1.0], gold, list("abcdef"))
        >>> round(found.win_rate, 2), found.gold_win_rate, found.at_equal_gold > 0.5
        (0.83, 0.5, True)
    """
    v, gap = np.asarray(votes, np.float64), np.asarray(gold, np.float64)
    if v.ndim != 1 or v.shape != gap.shape or len(prompts) != v.size or not np.isfinite(gap).all():
        raise ValueError(
            f"expected votes [n], finite gold [n] and n prompts, found {v.shape}, {gap.shape}, {len(prompts)}"
        )
    voted = ~np.isnan(v)
    if not voted.any():
        return None
    if not (v[voted].min() >= 0 and v[voted].max() <= 1):
        raise ValueError(f"votes must lie in [0, 1], found {v[voted].min()} to {v[voted].max()}")
    names = np.asarray(prompts, object).astype(str)[voted]
    wins, by_gold = (0.5 + 0.5 * np.sign(x[voted]) for x in (v - 0.5, gap))
    at_equal, at_equal_ci = length_controlled(wins, gap[voted], groups=names, seed=seed)
    return SelfPreference(
        n=int(voted.sum()),
        win_rate=float(wins.mean()),
        gold_win_rate=float(by_gold.mean()),
        excess=float((wins - by_gold).mean()),
        excess_ci=bootstrap_groups(wins - by_gold, names, seed=seed, within=(-1, 1)),
        at_equal_gold=at_equal,
        at_equal_gold_ci=at_equal_ci,
    )
