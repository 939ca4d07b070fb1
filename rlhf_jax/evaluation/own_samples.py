"""Whether a reward is still right where a policy has gone: on pairs of the policy's own samples that a judge orders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, bootstrap_pairs

_MOST = 256  # samples: the pairs are these squared


class OwnSamples(NamedTuple):
    """How a reward orders pairs of samples, held against a judge."""

    accuracy: float  # share of the pairs that both order alike; equal rewards count half
    pairs: int  # those that the judge does not score the same


def ordered_alike(reward: ArrayLike, judge: ArrayLike) -> OwnSamples | None:
    """Compute the share of pairs of samples that a reward and a judge order alike.

    A reward model's accuracy on people's pairs is about the responses that people saw. As a policy moves, its own
    samples leave them, and this figure falls towards one half where the reward no longer tells good from bad there.

    Args:
        reward: [n], the reward of each sample.
        judge: [n], what a judge that is never trained on gives it.

    Returns:
        The share over all pairs of at most 256 of the samples, spread over all there are; None where the judge tells
        none of them apart.

    Raises:
        ValueError: if the shapes disagree or a score is not finite.

    Example:
        >>> ordered_alike([1.0, 2.0, 3.0], [0.0, 1.0, 0.5])  # 2 of 3: the last two are the other way round
        OwnSamples(accuracy=0.6666666666666666, pairs=3)
    """
    alike, pairs = _compared(reward, judge)
    return OwnSamples(float(alike.mean()), len(pairs)) if len(pairs) else None


def ordered_alike_interval(reward: ArrayLike, judge: ArrayLike, *, seed: int = 0) -> Interval | None:
    """Give ``ordered_alike`` an interval of 95%, for which samples are resampled, not pairs.

    Args:
        reward: [n], the reward of each sample.
        judge: [n], a judge's score of each.
        seed: what the interval depends on.

    Returns:
        (low, high); None where the judge tells no two samples apart.

    Example:
        >>> low, high = ordered_alike_interval([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
        >>> round(low, 2), high  # three samples are too few to be sure
        (0.21, 1.0)
    """
    alike, pairs = _compared(reward, judge)
    return bootstrap_pairs(alike, pairs, seed=seed, within=(0, 1)) if len(pairs) else None


def _compared(reward: ArrayLike, judge: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Say of every pair that the judge orders whether the reward agrees, [m], and which samples it is of, [m, 2]."""
    x, y = np.asarray(reward, np.float64), np.asarray(judge, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"expected as many finite scores of both, [n], found shapes {x.shape} and {y.shape}")
    kept = np.linspace(0, x.size - 1, min(x.size, _MOST)).astype(int)
    i, j = (kept[part] for part in np.triu_indices(kept.size, 1))
    told = y[i] != y[j]
    i, j = i[told], j[told]
    return 0.5 + 0.5 * np.sign((x[i] - x[j]) * np.sign(y[i] - y[j])), np.stack([i, j], axis=1)
