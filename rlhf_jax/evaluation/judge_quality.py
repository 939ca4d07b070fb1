"""Whether a judge votes as people do: how often, how sure, and by what else than what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.calibration import calibration, calibration_interval
from rlhf_jax.evaluation.intervals import Interval, bootstrap_pairs
from rlhf_jax.evaluation.length_control import length_controlled
from rlhf_jax.evaluation.reward_model import EVEN


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeQuality:
    """What a judge's votes are worth beside people's, with intervals of 95%; None where no pair speaks to a figure."""

    pairs: int
    """Pairs that the judge was asked about."""
    abstained: float
    """Share of them without a vote."""
    n: int
    """Pairs with a vote on which people have a majority: those that the accuracy is over."""
    accuracy: float | None
    """Share of them in which the judge votes with the majority; an even vote counts half."""
    accuracy_ci: Interval | None
    """Its interval."""
    even: int
    """Even votes among them; many of them point to a judge of few levels."""
    ece: float | None
    """Expected calibration error of the votes against people's shares (``evaluation.calibration``)."""
    ece_ci: Interval | None
    """Its interval."""
    reliability: list[dict[str, float]]
    """The bins behind it."""
    brier: float | None
    """Mean squared distance between the vote and people's share."""
    brier_ci: Interval | None
    """Its interval."""
    brier_even: float | None
    """The same for somebody who always says one half: a judge above it would do better to say nothing."""
    longer: float | None
    """Share of the pairs of unequal length and with a majority in which the judge prefers the longer response."""
    longer_people: float | None
    """The same for the majority of people."""
    longer_excess: float | None
    """The first less the second: the judge's own taste for length."""
    longer_excess_ci: Interval | None
    """Its interval."""
    at_equal_length: float | None
    """The accuracy at equal length (``evaluation.length_controlled``)."""
    at_equal_length_ci: Interval | None
    """Its interval."""
    first: float | None = None
    """Mean vote for whichever response was shown first, over both orders; one half is no taste for a place."""
    first_ci: Interval | None = None
    """Its interval."""
    consistent: float | None = None
    """Share of the pairs in which both orders choose the same response; an even vote counts half."""
    consistent_ci: Interval | None = None
    """Its interval."""
    one_order: float | None = None
    """The accuracy of one order alone, the mean of both: what averaging the orders has to beat."""
    one_order_ci: Interval | None = None
    """Its interval."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in dataclasses.asdict(self).items()}


def judge_quality(
    votes: ArrayLike,
    share: ArrayLike,
    pairs: ArrayLike,
    lengths: ArrayLike,
    *,
    shown: ArrayLike | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> JudgeQuality:
    """Hold a judge's votes against people's.

    Pairs in which people are exactly even have no right answer and count in the calibration only. Where the judge
    abstained nothing counts but ``abstained``.

    Args:
        votes: [m], the judge's share for the first of each pair; NaN where it abstained.
        share: [m], the share of people's votes for the first.
        pairs: int [m, 2], the two responses of each pair. Intervals resample responses, not pairs
            (``bootstrap_pairs``).
        lengths: [n], of the responses, in any unit.
        shown: [m, 2], where the judge reads two responses in an order: the share for the first of the pair where that
            was shown first, and the share for the second where that was.
        seed: what the intervals depend on.
        draws: resamples behind each.

    Returns:
        The figures.

    Raises:
        ValueError: if shapes disagree, an index is out of range, or a vote or a share is outside [0, 1].

    Example:
        >>> found = judge_quality([0.9, 0.8, 0.4], [1.0, 0.3, 0.2], [[0, 1], [1, 2], [2, 0]], [5, 9, 7])
        >>> found.n, round(found.accuracy, 2)  # the second is wrong
        (3, 0.67)
        >>> round(found.longer, 2), found.longer_people  # how often each prefers the longer one
        (0.33, 0.0)
    """
    v, s, ij, sizes, both = _checked(votes, share, pairs, lengths, shown)
    voted = ~np.isnan(v)
    counted = voted & (np.abs(s - 0.5) > EVEN)
    people = np.where(s > 0.5, 1.0, -1.0)

    def mean(values: np.ndarray, where: np.ndarray, within: Interval = (0, 1)) -> tuple[float | None, Interval | None]:
        if not where.any():
            return None, None
        interval = bootstrap_pairs(values[where], ij[where], seed=seed, draws=draws, within=within)
        return float(values[where].mean()), interval

    right = _right(v, people)
    longer = np.sign(sizes[ij[:, 0]] - sizes[ij[:, 1]])
    uneven = counted & (longer != 0)
    prefers, people_prefer = _right(v, longer), (1 + people * longer) / 2
    excess = mean(prefers - people_prefer, uneven, (-1, 1))
    accuracy, brier = mean(right, counted), mean(np.square(v - s), voted)
    ece: tuple[float | None, list[dict[str, float]]] = (None, [])
    ece_ci = at_equal = None
    if voted.any():
        ece = calibration(v[voted], s[voted])
        ece_ci = calibration_interval(v[voted], s[voted], ij[voted], seed=seed, draws=draws)
    if counted.any():
        further = (sizes[ij[:, 0]] - sizes[ij[:, 1]]) * people
        at_equal = length_controlled(right[counted], further[counted], pairs=ij[counted], seed=seed, draws=draws // 2)
    return JudgeQuality(
        pairs=len(v),
        abstained=float(1 - voted.mean()),
        n=int(counted.sum()),
        accuracy=accuracy[0],
        accuracy_ci=accuracy[1],
        even=int((v[counted] == 0.5).sum()),
        ece=ece[0],
        ece_ci=ece_ci,
        reliability=ece[1],
        brier=brier[0],
        brier_ci=brier[1],
        brier_even=float(np.square(0.5 - s[voted]).mean()) if voted.any() else None,
        longer=float(prefers[uneven].mean()) if uneven.any() else None,
        longer_people=float(people_prefer[uneven].mean()) if uneven.any() else None,
        longer_excess=excess[0],
        longer_excess_ci=excess[1],
        at_equal_length=at_equal and at_equal[0],
        at_equal_length_ci=at_equal and at_equal[1],
        **({} if both is None else _places(both, people, counted, mean)),
    )


def _places(both: np.ndarray, people: np.ndarray, counted: np.ndarray, mean: Any) -> Mapping[str, Any]:
    """Compute what the order of the responses does to the votes."""
    asked = ~np.isnan(both).any(1)
    first = mean(both.mean(1), asked)
    sides = np.sign(both - 0.5)  # 1: the one shown first
    consistent = mean((1 - sides[:, 0] * sides[:, 1]) / 2, asked)
    one_order = mean((_right(both[:, 0], people) + _right(1 - both[:, 1], people)) / 2, asked & counted)
    return {
        "first": first[0],
        "first_ci": first[1],
        "consistent": consistent[0],
        "consistent_ci": consistent[1],
        "one_order": one_order[0],
        "one_order_ci": one_order[1],
    }


def _right(votes: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Say of each vote whether it is on a side: 1 the first of the pair, -1 the second."""
    return (1 + np.sign(votes - 0.5) * side) / 2


def _checked(
    votes: ArrayLike, share: ArrayLike, pairs: ArrayLike, lengths: ArrayLike, shown: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    v, s, ij = np.asarray(votes, np.float64), np.asarray(share, np.float64), np.asarray(pairs)
    sizes, both = np.asarray(lengths, np.float64), None if shown is None else np.asarray(shown, np.float64)
    m = v.size
    if v.ndim != 1 or not m or s.shape != (m,) or ij.shape != (m, 2) or (both is not None and both.shape != (m, 2)):
        found = f"{v.shape}, {s.shape}, {ij.shape}" + ("" if both is None else f" and {both.shape}")
        raise ValueError(f"expected votes [m], share [m], pairs [m, 2] and shown [m, 2] with m > 0, found {found}")
    if ij.min() < 0 or ij.max() >= sizes.size:
        raise ValueError(f"pairs must index the {sizes.size} lengths, found {ij.min()} to {ij.max()}")
    for name, values in (("votes", v), ("share", s), ("shown", s if both is None else both)):
        said = values[~np.isnan(values)]
        if (said.size and not (said.min() >= -EVEN and said.max() <= 1 + EVEN)) or (name == "share" and said.size < m):
            raise ValueError(f"{name} must lie in [0, 1]")
    return np.clip(v, 0.0, 1.0), np.clip(s, 0.0, 1.0), ij, sizes, both
