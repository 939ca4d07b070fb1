"""How far people agree: one person against the majority of the others, Krippendorff's alpha and Fleiss' kappa."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rlhf_jax.feedback.comparisons import histograms

_CHUNK = 4_000_000  # numbers held at once; keeps many pairs of finely graded ratings within memory


def single_rater_accuracy(ratings: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """How often one person's two ratings order a pair as the majority of the other people does.

    One rater of A and one rater of B are taken out as one person; the others vote on A against B (all pairs of raters).
    The person is right if the two ratings order the pair the same way; a tie, theirs or the majority's, counts half.
    The result is the exact mean over all ways of taking one person out. A reward model is up against it: one that
    agrees with the majority more often than this judges better than one person does.

    Args:
        ratings: n arrays [n_k], what people gave each response.
        pairs: int [m, 2], indices of the responses of each pair.

    Returns:
        float64 [m], from 0 to 1; its mean is the accuracy of one person.

    Raises:
        ValueError: if a response has no ratings, or one is not finite.

    Example:
        >>> single_rater_accuracy([[2, 2, 2, 2], [1, 1, 1, 3]], [[0, 1]])  # only "2 < 3" is wrong
        array([0.75])
    """
    counts = histograms(ratings)
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    n_levels = counts.shape[-1]
    level = np.arange(n_levels)
    sign = np.sign(level[:, None] - level[None, :]).astype(np.float64)  # [x, y]: does x beat y
    result = np.empty(len(pairs))
    step = max(1, _CHUNK // max(1, n_levels**2))
    for start in range(0, len(pairs), step):
        a, b = counts[pairs[start : start + step, 0]], counts[pairs[start : start + step, 1]]  # [m, n_levels]
        beats_b = b @ sign.T  # [m, n_levels]: net votes that one rating of A wins against all of B
        beats_a = a @ sign  # [m, n_levels]: net votes that all of A win against one rating of B
        net = (a * beats_b).sum(-1)
        others = net[:, None, None] - beats_b[:, :, None] - beats_a[:, None, :] + sign[None]
        weight = a[:, :, None] * b[:, None, :]
        right = 0.5 + 0.5 * np.sign(others) * sign[None]
        result[start : start + step] = (weight * right).sum((1, 2)) / weight.sum((1, 2))
    return result


def krippendorff_alpha(
    ratings: Sequence[np.ndarray], level: Literal["interval", "ordinal", "nominal"] = "interval"
) -> float:
    """Krippendorff's alpha: agreement beyond chance, for any number of raters an item and with ratings missing.

    ``alpha = 1 - D_o / D_e``, where ``D_o`` is the mean difference between two ratings of one item, and ``D_e`` that
    between any two.

    Args:
        ratings: n arrays [n_k], what people gave each item; items with fewer than two ratings are left out.
        level: what a difference is: "interval" (c - k)^2, "ordinal" the squared number of ratings between c and k, with
            half of those at c and at k, "nominal" 1.

    Returns:
        1 for perfect agreement, 0 for chance, less than 0 for systematic disagreement.

    Raises:
        ValueError: if no item has two ratings, if all ratings are equal (alpha is then undefined), or for an unknown
            level.

    Example:
        >>> krippendorff_alpha([[1, 1], [2, 2], [3, 3]])
        1.0
        >>> round(krippendorff_alpha([[1, 2], [1, 2], [2, 1]], "nominal"), 3)
        -0.667

    Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    usable = [np.asarray(values, np.float64) for values in ratings if len(values) > 1]
    if not usable:
        raise ValueError("expected an item with at least two ratings, found none")
    values = np.unique(np.concatenate(usable))
    counts = histograms(usable, values)  # [n_items, n_levels]
    raters = counts.sum(-1)
    totals = counts.sum(0)
    if len(values) == 1:
        raise ValueError(f"all ratings are {values[0]}: alpha is undefined where nothing differs")
    if level == "interval":
        difference = np.square(values[:, None] - values[None, :])
    elif level == "ordinal":
        middle = np.cumsum(totals) - totals / 2
        difference = np.square(middle[:, None] - middle[None, :])
    elif level == "nominal":
        difference = 1.0 - np.eye(len(values))
    else:
        raise ValueError(f"level={level!r}: expected 'interval', 'ordinal' or 'nominal'")
    # a rating is never paired with itself, but that pair has difference 0, so it need not be taken out
    observed = np.einsum("uc,uk,ck->u", counts, counts, difference, optimize=True) / (raters - 1)
    expected = totals @ difference @ totals / (totals.sum() - 1)
    return float(1.0 - observed.sum() / expected)


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' kappa: agreement on unordered categories beyond chance, where every item has the same number of ratings.

    ``kappa = (P - P_e) / (1 - P_e)``, where ``P`` is the share of agreeing pairs among the ratings of an item, averaged
    over items, and ``P_e = sum_j p_j^2`` with ``p_j`` the share of category j among all ratings.

    The raters of one item need not be those of another. Where the number of ratings differs, use
    ``krippendorff_alpha(..., "nominal")``: on items with m ratings each, N in all, it is ``kappa + (1 - kappa) / N``.

    Args:
        counts: [n_items, n_categories], how many raters put each item in each category.

    Returns:
        1 for perfect agreement, 0 for chance, less than 0 for systematic disagreement, at least -1 / (m - 1).

    Raises:
        ValueError: if counts are not whole numbers of at least 0, items have different numbers of ratings or fewer than
            two, or all ratings are of one category (kappa is then undefined).

    Example:
        >>> round(fleiss_kappa([[3, 0], [0, 3], [2, 1], [1, 2]]), 3)
        0.333

    Source: Fleiss, "Measuring Nominal Scale Agreement Among Many Raters", 1971.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"expected counts [n_items, n_categories], found shape {table.shape}")
    if not ((table >= 0) & np.isfinite(table) & (table == np.floor(table))).all():
        raise ValueError("expected counts that are whole numbers of at least 0")
    ratings = table.sum(-1)
    m = ratings[0]
    if (ratings != m).any():
        other = int((ratings != m).argmax())
        raise ValueError(
            f"item 0 has {m:g} ratings and item {other} has {ratings[other]:g}; kappa is for equal numbers: "
            "use krippendorff_alpha with level='nominal'"
        )
    if m < 2:
        raise ValueError(f"expected at least two ratings an item, found {m:g}")
    totals = table.sum(0)
    if (totals > 0).sum() == 1:
        raise ValueError("all ratings are of one category: kappa is undefined where nothing differs")
    agreed = (table * (table - 1)).sum(-1) / (m * (m - 1))
    by_chance = np.square(totals / totals.sum()).sum()
    return float((agreed.mean() - by_chance) / (1 - by_chance))
