"""From ratings to comparisons: what share of pairs of raters prefers one response to another.

Ratings are counted by level first, so a comparison costs a few multiplications however many raters there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def vote_share(ratings_a: np.ndarray, ratings_b: np.ndarray) -> float:
    """The share of pairs (a rater of A, a rater of B) in which A's rating is higher, ties counted half.

    ``share = (1 / (n_a n_b)) sum_ij (1[a_i > b_j] + 1/2 1[a_i = b_j])``

    Args:
        ratings_a: [n_a], what people gave A.
        ratings_b: [n_b], what people gave B; they may be other people.

    Returns:
        A number from 0 (everybody prefers B) to 1 (everybody prefers A).

    Raises:
        ValueError: if there are no ratings, or one is not finite.

    Example:
        >>> vote_share([1, 2], [1, 0])  # 2 > 1, 2 > 0, 1 > 0, and 1 = 1
        0.875

    Source: Mann & Whitney 1947 (the U statistic divided by n_a n_b).
    """
    table = votes([np.asarray(ratings_a), np.asarray(ratings_b)])
    return float(table[0, 1] / (table[0, 1] + table[1, 0]))


def votes(ratings: Sequence[np.ndarray]) -> np.ndarray:
    """Count all pairwise votes among K rated responses to one prompt.

    ``votes[i, j] = min(n_i, n_j) * vote_share(i, j)``, so ``votes[i, j] + votes[j, i]`` is the pair's number of raters.

    Args:
        ratings: K arrays [n_k], what people gave each response.

    Returns:
        float32 [K, K] with a zero diagonal.

    Raises:
        ValueError: if a response has no ratings, or one is not finite.

    Example:
        >>> votes([[1, 2], [1, 0]]).tolist()
        [[0.0, 1.75], [0.25, 0.0]]
    """
    return votes_from_histograms(histograms(ratings))


def histograms(ratings: Sequence[np.ndarray], levels: np.ndarray | None = None) -> np.ndarray:
    """Count every response's ratings by level.

    Args:
        ratings: n arrays [n_k], what people gave each response.
        levels: float [n_levels] ascending, the levels there are; those that occur if None.

    Returns:
        float64 [n, n_levels], how many raters gave each level, lowest level first.

    Raises:
        ValueError: if a response has no ratings, or one is not finite or not among the levels.

    Example:
        >>> histograms([[1, 2], [2, 2]]).tolist()
        [[1.0, 1.0], [0.0, 2.0]]
    """
    sizes = np.asarray([len(values) for values in ratings])
    if not sizes.all():
        raise ValueError(f"response {int(np.argmin(sizes))} has no ratings; leave it out")
    flat = np.concatenate([np.asarray(values, np.float64) for values in ratings]) if len(sizes) else np.zeros(0)
    if not np.isfinite(flat).all():
        raise ValueError(f"a rating is {flat[~np.isfinite(flat)][0]}; expected finite numbers")
    known = np.unique(flat) if levels is None else np.asarray(levels, np.float64)
    level = np.minimum(np.searchsorted(known, flat), max(len(known) - 1, 0))
    if len(flat) and not np.array_equal(known[level], flat):
        raise ValueError(f"rating {flat[known[level] != flat][0]} is not one of the levels {known.tolist()}")
    response = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(response * len(known) + level, minlength=len(sizes) * len(known))
    return counts.reshape(len(sizes), len(known)).astype(np.float64)


def votes_from_histograms(counts: np.ndarray) -> np.ndarray:
    """Count ``votes`` for many groups at once, from ratings counted by level.

    Args:
        counts: [..., K, n_levels], how many raters gave each level, lowest level first; every response has some.

    Returns:
        float32 [..., K, K] with a zero diagonal.

    Example:
        >>> votes_from_histograms(np.array([[1, 1], [2, 0]])).tolist()
        [[0.0, 1.5], [0.5, 0.0]]
    """
    counts = np.asarray(counts, np.float64)
    raters = counts.sum(-1)
    # what lies below a level, and half of what lies on it: the votes that one rating at that level wins
    below = np.cumsum(counts, -1) - 0.5 * counts
    won = np.einsum("...il,...jl->...ij", counts, below)
    share = won / (raters[..., :, None] * raters[..., None, :])
    result = share * np.minimum(raters[..., :, None], raters[..., None, :])
    diagonal = np.eye(counts.shape[-2], dtype=bool)
    return np.where(diagonal, 0.0, result).astype(np.float32)


def random_pairs(domains: Sequence[str], n_per_sentence: int, seed: int) -> np.ndarray:
    """Draw pairs of different sentences of one domain; every sentence is in ``2 * n_per_sentence`` of them.

    In each of ``n_per_sentence`` rounds a domain's sentences are shuffled into a ring and neighbours are paired, so no
    sentence is drawn more often than another. A domain of two sentences gives one pair a round, and one of a single
    sentence gives none.

    Args:
        domains: [n], the domain of every sentence.
        n_per_sentence: rounds.
        seed: what the draw depends on, beside the other arguments.

    Returns:
        int64 [m, 2], indices of the sentences of each pair, first A then B. A pair may be drawn in two rounds.

    Example:
        >>> pairs = random_pairs(["x", "y", "x", "y", "x"], 1, seed=0)
        >>> sorted(sorted(pair) for pair in pairs.tolist())
        [[0, 2], [0, 4], [1, 3], [2, 4]]
    """
    generator = np.random.default_rng(seed)
    names = np.asarray(domains)
    drawn = []
    for _ in range(n_per_sentence):
        for name in np.unique(names):
            ring = generator.permutation(np.flatnonzero(names == name))
            pairs = np.stack([ring, np.roll(ring, -1)], axis=1)
            drawn.append(pairs[: len(ring) if len(ring) > 2 else len(ring) // 2])
    return np.concatenate(drawn).astype(np.int64) if drawn else np.zeros((0, 2), np.int64)
