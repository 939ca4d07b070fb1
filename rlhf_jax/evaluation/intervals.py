"""95% intervals: for a proportion, a mean, a mean over prompts, and an accuracy over pairs that share sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]

# Draws handled at once by the pair bootstrap: bounds its memory at this many float64 per pair.
_DRAWS_AT_ONCE = 32


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    r"""Wilson score interval of a proportion; it stays inside [0, 1] and is sensible at 0 and at n successes.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``, ``p = successes / n``

    Args:
        successes: how many of ``n`` succeeded; a tie may count one half.
        n: how many independent trials there were.
        confidence: the coverage wanted.

    Returns:
        (low, high); (0, 1) when ``n`` is 0.

    Raises:
        ValueError: if ``successes`` is outside [0, n] or ``confidence`` outside (0, 1).

    Example:
        >>> low, high = wilson(75, 100)
        >>> round(low, 3), round(high, 3)
        (0.657, 0.825)

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n = {n}], found {successes}")
    z = NormalDist().inv_cdf(0.5 + _checked_confidence(confidence) / 2)
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # exact where rounding would leave 1e-17
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def bootstrap_mean(
    values: ArrayLike, *, seed: int, draws: int = 2000, confidence: float = 0.95, within: Interval | None = None
) -> Interval:
    """Percentile bootstrap interval of the mean of independent values.

    Args:
        values: [n], at least one.
        seed: the interval is a pure function of its arguments.
        draws: resamples.
        confidence: the coverage wanted.
        within: the bounds of the values, (0, 1) for shares. Where all values are alike no resample differs, and three
            right answers of three would be sure; with bounds Wilson's interval takes the place of that point.

    Returns:
        (low, high).

    Raises:
        ValueError: if there is no value, or ``confidence`` is outside (0, 1).

    Example:
        >>> bootstrap_mean([2.0, 2.0, 2.0], seed=0)
        (2.0, 2.0)
        >>> low, high = bootstrap_mean([1.0, 1.0, 1.0], seed=0, within=(0, 1))
        >>> round(low, 3), high
        (0.439, 1.0)

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    flat = np.asarray(values, np.float64).ravel()
    if flat.size == 0:
        raise ValueError("values is empty; a mean needs at least one value")
    rng = np.random.default_rng(seed)
    means = np.array([flat[rng.integers(0, flat.size, flat.size)].mean() for _ in range(draws)])
    return _no_point(percentiles(means, confidence), flat.size, within, confidence)


def bootstrap_groups(
    values: ArrayLike,
    groups: ArrayLike,
    *,
    seed: int,
    draws: int = 2000,
    confidence: float = 0.95,
    within: Interval | None = None,
) -> Interval:
    """Percentile bootstrap interval of a mean, when several values are of one prompt: prompts are resampled whole.

    Where the values are differences between two models on the same rows, it is the paired interval.

    Args:
        values: [n], at least one.
        groups: [n], what tells the prompts apart: numbers or texts.
        seed: the interval is a pure function of its arguments.
        draws: resamples.
        confidence: the coverage wanted.
        within: the bounds of the values, as in ``bootstrap_mean``; prompts are what Wilson's interval counts.

    Returns:
        (low, high).

    Raises:
        ValueError: if there is no value, the shapes disagree, or ``confidence`` is outside (0, 1).

    Example:
        >>> bootstrap_groups([1.0, 0.0, 1.0, 0.0], ["one", "one", "two", "two"], seed=0)
        (0.5, 0.5)

    Source: Davison & Hinkley (1997), Bootstrap Methods and their Application, section 3.8.
    """
    v, names = np.asarray(values, np.float64), np.asarray(groups)
    if v.ndim != 1 or not v.size or names.shape != v.shape:
        raise ValueError(f"expected values [n] and groups [n] with n > 0, found {v.shape} and {names.shape}")
    drawn = [weights @ v / weights.sum(1) for weights in resampled(names, seed=seed, draws=draws)]
    return _no_point(percentiles(np.concatenate(drawn), confidence), np.unique(names).size, within, confidence)


def union(one: Interval, other: Interval) -> Interval:
    """Take the interval that holds two of them.

    Args:
        one: an interval.
        other: another one.

    Example:
        >>> union((0.2, 0.5), (0.3, 0.6))
        (0.2, 0.6)
    """
    return min(one[0], other[0]), max(one[1], other[1])


def resampled(groups: np.ndarray, *, seed: int, draws: int) -> Iterator[np.ndarray]:
    """Draw prompts with replacement, as weights for what is of them.

    Args:
        groups: [n], what tells the prompts apart.
        seed: the draws are a pure function of the arguments.
        draws: how many.

    Yields:
        float64 [at most 32, n]: for each draw how often what stands there was drawn.
    """
    kinds, where = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        drawn = rng.integers(0, kinds.size, (size, kinds.size))
        times = np.stack([np.bincount(row, minlength=kinds.size) for row in drawn])
        yield times.astype(np.float64)[:, where.reshape(-1)]


def resampled_pairs(pairs: np.ndarray, *, seed: int, draws: int) -> Iterator[np.ndarray]:
    """Draw items with replacement, as weights for the pairs of them; where no item is in two pairs, draw the pairs.

    Args:
        pairs: int [m, 2], the two items of each pair.
        seed: the draws are a pure function of the arguments.
        draws: how many.

    Yields:
        float64 [m, at most 32]: for each draw how often the first item of a pair was drawn times how often the second.
    """
    items, where = np.unique(pairs, return_inverse=True)
    if items.size == pairs.size:
        for weight in resampled(np.arange(len(pairs)), seed=seed, draws=draws):
            yield np.ascontiguousarray(weight.T)
        return
    where = where.reshape(pairs.shape)
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        times = rng.multinomial(items.size, np.full(items.size, 1 / items.size), size=size).astype(np.float64)
        # [m, size]: rows are contiguous, so the two gathers copy whole rows
        weight = np.ascontiguousarray(times.T)[where[:, 0]]
        weight *= np.ascontiguousarray(times.T)[where[:, 1]]
        yield weight


def bootstrap_pairs(
    values: ArrayLike,
    pairs: ArrayLike,
    *,
    seed: int,
    draws: int = 1000,
    confidence: float = 0.95,
    within: Interval | None = None,
) -> Interval:
    """Interval of a mean over pairs of items, when the same item stands in many pairs.

    Items, not pairs, are resampled: an item drawn ``w_i`` times gives its pairs the weight ``w_i w_j``, and each draw's
    figure is ``sum(w_i w_j v_ij) / sum(w_i w_j)``. Pairs that share an item rise and fall together, which an interval
    that takes pairs as independent ignores (it comes out several times too narrow). Where items stand in only one or
    two pairs, this one is wider than it need be, never narrower; where each stands in one alone, the pairs are
    independent and are resampled themselves.

    Args:
        values: [m], one for each pair (1 = the pair was ranked rightly, 0 = not, 1/2 = tied).
        pairs: int [m, 2], the two items of each pair.
        seed: the interval is a pure function of its arguments.
        draws: resamples.
        confidence: the coverage wanted.
        within: the bounds of the values, as in ``bootstrap_mean``; Wilson's interval counts the pairs, or half of the
            items where they share some.

    Returns:
        (low, high).

    Raises:
        ValueError: if there is no pair, the shapes disagree, or ``confidence`` is outside (0, 1).

    Example:
        >>> bootstrap_pairs([1.0, 1.0], [[0, 1], [1, 2]], seed=0)
        (1.0, 1.0)

    Source: the two-way resampling of Owen (2007), The pigeonhole bootstrap.
    """
    v = np.asarray(values, np.float64)
    ij = np.asarray(pairs)
    if v.ndim != 1 or v.size == 0 or ij.shape != (v.size, 2):
        raise ValueError(f"expected values [m] and pairs [m, 2] with m > 0, found {v.shape} and {ij.shape}")
    means = []
    for weight in resampled_pairs(ij, seed=seed, draws=draws):
        total = weight.sum(axis=0)
        # a draw that happens to hold no complete pair says nothing
        means.append((v @ weight)[total > 0] / total[total > 0])
    found = np.concatenate(means)
    low_high: Interval = percentiles(found, confidence) if found.size else (float(v.min()), float(v.max()))
    return _no_point(low_high, min(v.size, np.unique(ij).size // 2), within, confidence)


def percentiles(draws: np.ndarray, confidence: float = 0.95) -> Interval:
    """Take the interval that the middle of the draws lies in.

    Args:
        draws: [n], one figure each.
        confidence: the coverage wanted.

    Returns:
        (low, high).

    Raises:
        ValueError: if ``confidence`` is outside (0, 1).

    Example:
        >>> low, high = percentiles(np.arange(101.0))
        >>> round(low, 3), round(high, 3)
        (2.5, 97.5)
    """
    tail = 50 * (1 - _checked_confidence(confidence))
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def _no_point(found: Interval, units: int, within: Interval | None, confidence: float) -> Interval:
    """Put Wilson's interval, stretched to the bounds, in the place of an interval that is a point."""
    if within is None or found[0] < found[1]:
        return found
    low, size = within[0], within[1] - within[0]
    share = min(max((found[0] - low) / size, 0.0), 1.0)
    ends = wilson(share * max(units, 1), max(units, 1), confidence=confidence)
    return low + size * ends[0], low + size * ends[1]


def _checked_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}")
    return confidence
