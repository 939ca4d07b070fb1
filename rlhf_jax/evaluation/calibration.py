"""Whether probabilities mean what they say: where a side gets 80%, people should prefer it in 80% of the pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, percentiles, resampled_pairs


def calibration(votes: ArrayLike, share: ArrayLike, *, bins: int = 10) -> tuple[float, list[dict[str, float]]]:
    r"""Compute the expected calibration error of votes against what people say.

    Each pair is turned so that the vote prefers its first, which makes the figure independent of the order in which
    pairs were written down. ``ECE = sum_b (n_b / n) |mean confidence_b - mean vote share_b|``, with bins of equal width
    over [0.5, 1].

    Args:
        votes: [m], the probability given to the first of each pair.
        share: [m], the share of people's votes for the first.
        bins: how many bins.

    Returns:
        (ece, rows): a row for each bin that holds a pair, with ``low``, ``high``, ``confidence``, ``observed`` and
        ``pairs``.

    Raises:
        ValueError: if the shapes disagree, there is no pair, or a vote or a share is outside [0, 1].

    Example:
        >>> ece, rows = calibration([0.9, 0.1, 0.5], [1.0, 0.2, 0.7])  # 0.9 against 0.9, an even vote against even
        >>> round(ece, 3), [row["pairs"] for row in rows]
        (0.0, [1, 2])

    Source: Guo et al. (2017), On calibration of modern neural networks, section 2.
    """
    confidence, observed, which = _turned(votes, share, bins)
    edges = np.linspace(0.5, 1.0, bins + 1)
    rows: list[dict[str, float]] = []
    ece = 0.0
    for b in np.unique(which):
        inside = which == b
        mean_confidence, mean_observed = float(confidence[inside].mean()), float(observed[inside].mean())
        ece += inside.mean() * abs(mean_confidence - mean_observed)
        row = {"low": float(edges[b]), "high": float(edges[b + 1]), "confidence": mean_confidence}
        rows.append(row | {"observed": mean_observed, "pairs": int(inside.sum())})
    return float(ece), rows


def calibration_interval(
    votes: ArrayLike, share: ArrayLike, pairs: ArrayLike, *, seed: int, bins: int = 10, draws: int = 1000
) -> Interval:
    """Give the expected calibration error an interval of 95%, for which items are resampled, not pairs.

    The error adds up absolute values, which chance alone makes larger than 0, and a resample larger still: with few
    pairs the interval lies high, and may lie above the figure itself.

    Args:
        votes: [m], the probability given to the first of each pair.
        share: [m], the share of people's votes for the first.
        pairs: int [m, 2], the two items of each pair.
        seed: the interval is a pure function of its arguments.
        bins: how many bins.
        draws: resamples.

    Returns:
        (low, high).

    Example:
        >>> calibration_interval([1.0, 1.0], [1.0, 1.0], [[0, 1], [1, 2]], seed=0)
        (0.0, 0.0)
    """
    confidence, observed, which = _turned(votes, share, bins)
    gaps = np.zeros((bins, len(which)))
    gaps[which, np.arange(len(which))] = confidence - observed
    found = []
    for weight in resampled_pairs(np.asarray(pairs), seed=seed, draws=draws):
        total = weight.sum(axis=0)
        # a draw that happens to hold no complete pair says nothing
        found.append(np.abs(gaps @ weight).sum(axis=0)[total > 0] / total[total > 0])
    return percentiles(np.concatenate(found))


def _turned(votes: ArrayLike, share: ArrayLike, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn each pair so that the vote prefers its first: the vote, what people say, and the bin, [m] each."""
    v, s = np.asarray(votes, np.float64), np.asarray(share, np.float64)
    if v.ndim != 1 or v.shape != s.shape or not v.size:
        raise ValueError(f"expected votes [m] and share [m] with m > 0, found {v.shape} and {s.shape}")
    if not (v.min() >= 0 and v.max() <= 1 and s.min() >= -1e-6 and s.max() <= 1 + 1e-6):
        raise ValueError("votes and shares must lie in [0, 1]")
    confidence = np.maximum(v, 1 - v)
    # A tied pair has no preferred side: its share counts as even, as both orders of it together would say.
    observed = np.where(v == 0.5, 0.5, np.where(v > 0.5, s, 1 - s))
    return confidence, observed, np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
