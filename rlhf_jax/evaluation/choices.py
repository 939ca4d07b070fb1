"""Whether scores pick what people picked: pairs, and best-of-K rows in which one or several responses are right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.evaluation.intervals import Interval, bootstrap_groups, union, wilson
from rlhf_jax.evaluation.length_control import length_controlled
from rlhf_jax.evaluation.reward_model import reliability

# People see no difference; the model says about the same where it gives either side less than three in five.
NEAR_EVEN = 0.1


class ScoredChoice(NamedTuple):
    """One row and what was scored: K responses, those that people picked first."""

    scores: np.ndarray  # float [K]
    right: int  # how many of the first are right; 0 where people tie
    share: float  # how much of the vote the first has against the others; 1/2 where people tie
    lengths: np.ndarray  # [K], in any unit
    prompt: str  # rows of one prompt are no independent evidence
    subset: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceQuality:
    """Figures of one set of rows; None where no row speaks to one."""

    n: int
    """Rows in which people picked something: those that the accuracy is over."""
    accuracy: float | None
    """Share of them in which what people picked has the highest score."""
    accuracy_ci: Interval | None
    """95%: Wilson's; where prompts are in several rows, a bootstrap over prompts where that is wider."""
    chance: float | None
    """The accuracy that scores at random would have."""
    ece: float | None
    """How far sigmoid(score difference) is from the share of votes, over all pairs of what is right and what is not."""
    length_controlled: float | None = None
    """The accuracy at equal length (``evaluation.length_controlled``)."""
    length_controlled_ci: Interval | None = None
    """Its interval of 95%."""
    ties: int = 0
    """Rows in which people tie; no part of the accuracy."""
    ties_near: float | None = None
    """Share of the ties in which the model gives neither side more than 3 in 5."""
    even_scores: int = 0
    """Rows of the accuracy in which the right and a wrong response have the same score."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in dataclasses.asdict(self).items()}


def picked(scores: np.ndarray, right: int) -> float:
    """Say how far scores pick what is right: 1 where each right response scores above every wrong one.

    Where the lowest right score and the highest wrong ones are equal, it counts as the chance that the right one comes
    first among them: 1/2 for a pair.

    Args:
        scores: [K], the right responses first.
        right: how many are right, at least 1 and fewer than K.

    Returns:
        A number from 0 to 1.

    Example:
        >>> picked(np.array([1.0, 1.0]), 1), picked(np.array([2.0, 2.0, 2.0, 0.0]), 1), picked(np.array([3.0, 2.0]), 1)
        (0.5, 0.3333333333333333, 1.0)
        >>> picked(np.array([3.0, 1.0, 2.0]), 2)  # one of the two right ones is below the wrong one
        0.0
    """
    lowest, wrong = scores[:right].min(), scores[right:]
    highest = wrong.max()
    return 1 / (1 + int((wrong == highest).sum())) if lowest == highest else float(lowest > highest)


def choice_quality(rows: Sequence[ScoredChoice], *, lengths: bool = True, seed: int = 0) -> ChoiceQuality:
    """Compute the figures of rows: accuracy, calibration, ties, and the accuracy at equal length.

    Args:
        rows: what was scored.
        lengths: compute the length-controlled accuracy, which takes longer than the rest.
        seed: what the intervals' resampling depends on.

    Returns:
        The figures.

    Raises:
        ValueError: if a score is not finite.

    Example:
        >>> row = lambda first, second: ScoredChoice(np.array([first, second]), 1, 1.0, np.array([5, 5]), str(first))
        >>> found = choice_quality([row(2.0, 1.0), row(1.0, 1.0), row(0.0, 1.0), row(3.0, 0.0)])
        >>> found.n, found.accuracy, found.even_scores
        (4, 0.625, 1)
    """
    for row in rows:
        if not np.isfinite(row.scores).all():
            raise ValueError(f"a score is not finite: {row.scores.tolist()}")
    decided = [row for row in rows if row.right]
    ties = [row for row in rows if not row.right]
    right = outcomes(decided)
    prompts = [row.prompt for row in decided]
    pairs = [pair for row in rows for pair in _gaps(row)]
    at_equal: tuple[float | None, Interval | None] = (None, None)
    if lengths and decided:
        at_equal = length_controlled(right, [_longer(row) for row in decided], groups=prompts, seed=seed)
    near = [abs(_sigmoid(row.scores[0] - row.scores[1]) - 0.5) < NEAR_EVEN for row in ties]
    return ChoiceQuality(
        n=len(decided),
        accuracy=float(right.mean()) if decided else None,
        accuracy_ci=mean_interval(right, prompts, seed=seed) if decided else None,
        chance=float(np.mean([1 / _ways(row) for row in decided])) if decided else None,
        ece=reliability(*(np.array(x) for x in zip(*pairs, strict=True)))[0] if pairs else None,
        length_controlled=at_equal[0],
        length_controlled_ci=at_equal[1],
        ties=len(ties),
        ties_near=float(np.mean(near)) if ties else None,
        even_scores=sum(bool(row.scores[: row.right].min() == row.scores[row.right :].max()) for row in decided),
    )


def outcomes(rows: Sequence[ScoredChoice]) -> np.ndarray:
    """Say of each row whether the scores pick what people picked, float64 [n], as ``picked`` does.

    Args:
        rows: those in which people picked something.

    Example:
        >>> outcomes([ScoredChoice(np.array([2.0, 1.0]), 1, 1.0, np.array([5, 5]), "Hi.")])
        array([1.])
    """
    return np.array([picked(row.scores, row.right) for row in rows], np.float64)


def mean_interval(values: np.ndarray, prompts: Sequence[str], *, seed: int = 0) -> Interval:
    """Give the mean of values in [0, 1] an interval of 95%: Wilson's, and where prompts repeat the wider bootstrap.

    Resampled prompts tell nothing of what few of them, or prompts that all say the same, leave open, so the interval is
    never narrower than that of as many independent rows.

    Args:
        values: [n], at least one.
        prompts: [n].
        seed: what the bootstrap depends on.

    Returns:
        (low, high).

    Example:
        >>> mean_interval(np.array([1.0, 0.0]), ["one", "one"]) == wilson(1, 2)
        True
    """
    apart = wilson(float(values.sum()), len(values))
    if len(set(prompts)) == len(prompts):
        return apart
    return union(apart, bootstrap_groups(values, prompts, seed=seed))


def by_subset(rows: Sequence[ScoredChoice], *, seed: int = 0) -> Mapping[str, ChoiceQuality]:
    """Compute the figures of every subset, in the order in which they first come; none where rows name no subset.

    Args:
        rows: what was scored.
        seed: what the intervals' resampling depends on.
    """
    names = dict.fromkeys(row.subset for row in rows)
    if not any(names):
        return {}
    return {
        name: choice_quality([row for row in rows if row.subset == name], lengths=False, seed=seed) for name in names
    }


def worst_subset(by: Mapping[str, ChoiceQuality]) -> str:
    """Name the subset with the lowest accuracy, the larger one of equals; empty where there are not two of them.

    Args:
        by: from ``by_subset``.
    """
    known = {name: (x.accuracy, -x.n) for name, x in by.items() if x.accuracy is not None}
    return min(known, key=lambda name: known[name]) if len(known) > 1 else ""


def _gaps(row: ScoredChoice) -> list[tuple[float, float]]:
    """List the score differences of a row's pairs, and the share of the vote that the first of each has."""
    if not row.right:
        return [(float(row.scores[0] - row.scores[1]), row.share)]
    return [(float(one - other), row.share) for one in row.scores[: row.right] for other in row.scores[row.right :]]


def _longer(row: ScoredChoice) -> float:
    """Compute how much longer what is right is than what is wrong, in the mean."""
    return float(row.lengths[: row.right].mean() - row.lengths[row.right :].mean())


def _ways(row: ScoredChoice) -> int:
    """Count the ways in which the right ones can lie among all: in one of them they come first."""
    return math.comb(len(row.scores), row.right)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(x, -500, 500))))
