"""Which of two is better on the same prompts: win rates and differences in accuracy, with paired intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, bootstrap_groups, union, wilson
from rlhf_jax.evaluation.length_control import length_controlled


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often one policy's response has the higher score."""

    n: int
    """Comparisons: responses of either policy."""
    win_rate: float
    """Share that the first policy wins; equal scores count half."""
    win_rate_ci: Interval
    """95%, a bootstrap over prompts."""
    length_controlled: float | None = None
    """The win rate at equal length (``evaluation.length_controlled``)."""
    length_controlled_ci: Interval | None = None
    """Its interval of 95%."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more often one scorer is right than another on the same rows."""

    n: int
    """Rows."""
    difference: float
    """The first accuracy less the second."""
    difference_ci: Interval
    """95%, a bootstrap over prompts of the rows' differences."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in dataclasses.asdict(self).items()}


def paired_difference(first: ArrayLike, second: ArrayLike, prompts: Sequence[str], *, seed: int = 0) -> Difference:
    """Compare two accuracies on the same rows.

    ``mean_i (x_i - y_i)``; what is hard for both falls out, so that the interval is narrower than those of either
    accuracy suggest.

    Args:
        first: [n], how far each row is right, from 0 to 1.
        second: [n], the same rows of the other.
        prompts: [n], which prompt each row is of.
        seed: what the interval's resampling depends on.

    Returns:
        The difference.

    Raises:
        ValueError: if there is no row or the shapes disagree.

    Example:
        >>> paired_difference([1, 1, 0, 1], [1, 1, 0, 1], ["a", "b", "c", "d"]).difference_ci
        (0.0, 0.0)
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"expected the same rows of both, found {x.shape} and {y.shape}")
    low_high = bootstrap_groups(x - y, prompts, seed=seed)
    if len(set(prompts)) < x.size:  # few prompts would make it too sure
        low_high = union(low_high, bootstrap_groups(x - y, np.arange(x.size), seed=seed))
    return Difference(n=x.size, difference=float((x - y).mean()), difference_ci=low_high)


def paired_win_rate(
    first: ArrayLike,
    second: ArrayLike,
    prompts: Sequence[str],
    *,
    lengths: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> WinRate:
    """Compute how often the first policy's response scores above the second's to the same prompt.

    Args:
        first: [n], a judge's scores of the first policy's responses.
        second: [n], its scores of the second's.
        prompts: [n], which prompt each comparison is of: several samples of one prompt are drawn together.
        lengths: the lengths of both policies' responses, [n] each, for the win rate at equal length; None leaves it
            out.
        seed: what the intervals' resampling depends on.

    Returns:
        The win rate.

    Raises:
        ValueError: if there is no comparison, the shapes disagree, or a score is not finite.

    Example:
        >>> paired_win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0], ["a", "b", "c", "d"]).win_rate
        0.625
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"expected as many finite scores of both, found shapes {x.shape} and {y.shape}")
    wins = 0.5 + 0.5 * np.sign(x - y)
    at_equal: tuple[float | None, Interval | None] = (None, None)
    if lengths is not None:
        longer = np.subtract(*(np.asarray(each, np.float64) for each in lengths))
        at_equal = length_controlled(wins, longer, groups=np.asarray(prompts), seed=seed)
    return WinRate(
        n=wins.size,
        win_rate=float(wins.mean()),
        win_rate_ci=_interval(wins, prompts, seed),
        length_controlled=at_equal[0],
        length_controlled_ci=at_equal[1],
    )


def _interval(wins: np.ndarray, prompts: Sequence[str], seed: int) -> Interval:
    """Bootstrap over prompts; where one wins everywhere no draw differs, and Wilson's says what so many leave open."""
    kinds = len(set(prompts))
    if wins.min() == wins.max() != 0.5:
        return wilson(float(wins[0]) * kinds, kinds)
    found = bootstrap_groups(wins, prompts, seed=seed)
    return found if kinds == wins.size else union(found, bootstrap_groups(wins, np.arange(wins.size), seed=seed))


def places_of(names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Find where each name stands, in the order in which they first come; none where all are empty.

    Args:
        names: the subset, or the domain, of each row.

    Returns:
        By name the places, int64.

    Example:
        >>> {name: where.tolist() for name, where in places_of(["b", "a", "b"]).items()}
        {'b': [0, 2], 'a': [1]}
    """
    every = np.asarray(names, object)
    return {name: np.flatnonzero(every == name) for name in dict.fromkeys(names)} if any(names) else {}
