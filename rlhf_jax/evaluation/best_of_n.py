"""What the best of n samples is worth by another judge, from all samples there are and not from the first n."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def best_of_n_mean(proxy: ArrayLike, gold: ArrayLike, n: int) -> np.ndarray:
    """Estimate the gold score of the best of n samples by a proxy, without bias, from N samples of which n are drawn.

    With ``r_i`` the rank of sample i by the proxy, 1 for the lowest, the mean over all subsets of n samples is
    ``sum_i gold_i C(r_i - 1, n - 1) / C(N, n)``. Samples with equal proxy scores are chosen at random.

    Args:
        proxy: [..., N], the scores that choose.
        gold: [..., N], the scores that measure.
        n: how many are drawn, 1 to N: the mean of gold at 1, the gold score of the highest by the proxy at N.

    Returns:
        float64 [...].

    Raises:
        ValueError: if the shapes disagree, a score is not finite, or n is not between 1 and N.

    Example:
        >>> best_of_n_mean([0.1, 0.2, 0.3], [0.0, 3.0, 6.0], 2)  # the pairs' best have 3, 6 and 6
        array(5.)

    Source: Nakano et al. (2021), WebGPT, arXiv:2112.09332, appendix I; Gao et al. (2022), arXiv:2210.10760.
    """
    chooses, measures = np.asarray(proxy, np.float64), np.asarray(gold, np.float64)
    if chooses.ndim < 1 or chooses.shape != measures.shape:
        raise ValueError(f"expected proxy [..., N] and gold [..., N], found {chooses.shape} and {measures.shape}")
    if not (np.isfinite(chooses).all() and np.isfinite(measures).all()):
        raise ValueError("proxy and gold must be finite")
    weights = _rank_weights(chooses.shape[-1], n)
    flat, values = chooses.reshape(-1, chooses.shape[-1]), measures.reshape(-1, chooses.shape[-1])
    means = [_in_order(one) @ weights for one in _ordered(flat, values)]
    return np.asarray(means, np.float64).reshape(chooses.shape[:-1])


def _rank_weights(size: int, n: int) -> np.ndarray:
    """Compute how probable it is that each of N ranks is the highest of n, [N]: they add up to 1."""
    if not 1 <= n <= size:
        raise ValueError(f"n must lie between 1 and the {size} samples there are, found {n}")
    rank = np.arange(n, size + 1)
    # C(r - 1, n - 1) / C(N, n) in logarithms, as neither fits a float for a thousand samples
    log_whole = math.lgamma(size + 1) - math.lgamma(n + 1) - math.lgamma(size - n + 1)
    logs = [math.lgamma(r) - math.lgamma(n) - math.lgamma(r - n + 1) - log_whole for r in rank.tolist()]
    return np.concatenate([np.zeros(n - 1), np.exp(logs)])


def _ordered(proxy: np.ndarray, gold: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    order = np.argsort(proxy, axis=-1, kind="stable")
    pairs = zip(np.take_along_axis(proxy, order, -1), np.take_along_axis(gold, order, -1), strict=True)
    return list(pairs)


def _in_order(sorted_scores: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Give samples that the proxy finds equal the mean of their gold scores, which is choosing among them at random."""
    proxy, gold = sorted_scores
    _, which, count = np.unique(proxy, return_inverse=True, return_counts=True)
    return (np.bincount(which, gold) / count)[which]
