"""What each rater of pairs is worth: agreement with the others and with known answers, and a weight beyond chance.

Labels of a pair are 0 where the first response is preferred, 1 the second, 2 a tie, and -1 where a rater gave none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.feedback.consensus import both_ways
from rlhf_jax.feedback.drift import Drift, drift
from rlhf_jax.feedback.labels import agreements, checked_labels, label_alpha, majority_of_others, mean_by_rater


class RaterReport(NamedTuple):
    """What is known of n_raters raters; a figure is NaN where nothing gives it."""

    n: np.ndarray  # int64 [n_raters]; pairs that each labelled
    others: np.ndarray  # float64 [n_raters]; agreement with the majority of the others
    others_n: np.ndarray  # int64 [n_raters]; on how many pairs
    golden: np.ndarray  # float64 [n_raters]; agreement with known answers
    golden_n: np.ndarray  # int64 [n_raters]; on how many pairs
    weight: np.ndarray  # float64 [n_raters]; ``rater_weights``
    drift: Drift  # agreement with the others, in the first and second half of each rater's labels
    alpha: float  # Krippendorff's, of all of them


def rater_report(labels: np.ndarray, times: np.ndarray | None = None, golden: np.ndarray | None = None) -> RaterReport:
    """Measure every rater of a table of labels.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        times: float [n_items, n_raters], when each label was given, NaN where nobody knows; None where nobody does.
        golden: int [n_items], the known answers, -1 where there is none; None where there are none.

    Returns:
        The figures.

    Raises:
        ValueError: if an array has another shape or other values.

    Example:
        >>> report = rater_report([[0, 0, 1], [1, 1, 0], [1, 1, 1]], golden=[0, 1, -1])
        >>> report.n, report.golden, report.others.round(2)
        (array([3, 3, 3]), array([1., 1., 0.]), array([1.  , 1.  , 0.33]))
    """
    table = checked_labels(labels)
    known = _known(golden, len(table))
    with_others, with_golden = agreement_with_others(table), agreement_with_golden(table, known)
    return RaterReport(
        n=(table >= 0).sum(0),
        others=with_others[0],
        others_n=with_others[1],
        golden=with_golden[0],
        golden_n=with_golden[1],
        weight=rater_weights(table, golden=known),
        drift=drift(table, np.full(table.shape, np.nan) if times is None else times),
        alpha=label_alpha(table),
    )


def agreement_with_others(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each rater agrees with the majority of the others, who are asked without the rater.

    Each label is one vote, a tie half a vote for either response. Where the others have no majority nobody can agree
    with it, and the pair does not count; where the rater says tie and they do not, it counts half.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.

    Returns:
        Agreement float64 [n_raters], 0 to 1, NaN where no pair counts; and on how many pairs, int64 [n_raters].

    Raises:
        ValueError: if labels are not whole numbers from -1 to 2.

    Example:
        >>> agreement_with_others([[0, 0, 1], [1, 1, 2]])  # twice with the first two, once against and once half
        (array([1.  , 1.  , 0.25]), array([1, 1, 2]))
    """
    table = checked_labels(labels)
    return mean_by_rater(agreements(table, majority_of_others(table)))


def agreement_with_golden(labels: np.ndarray, golden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each rater gives the known answer; where one of the two is a tie and the other is not, half.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        golden: int [n_items], the known answers, -1 where there is none.

    Returns:
        Agreement float64 [n_raters], 0 to 1, NaN where no pair counts; and on how many pairs, int64 [n_raters].

    Raises:
        ValueError: if an array has another shape or other values.

    Example:
        >>> agreement_with_golden([[0, 1], [1, 2], [1, 1]], [0, 1, -1])
        (array([1.  , 0.25]), array([2, 2]))
    """
    table = checked_labels(labels)
    known = _known(golden, len(table))
    return mean_by_rater(agreements(table, np.broadcast_to(known[:, None], table.shape)))


def rater_weights(labels: np.ndarray, *, golden: np.ndarray | None = None, smoothing: float = 1.0) -> np.ndarray:
    """How far each rater is right beyond chance: Cohen's kappa between a rater and the truth, as it is estimated.

    ``w_k = max(0, (o_k - e_k) / (1 - e_k))``, where ``o_k = sum_j p_j confusion_kjj`` is how often rater k is right and
    ``e_k = sum_j p_j sum_i p_i confusion_kij`` how often somebody would be who gives the same labels without looking;
    ``p`` and ``confusion`` are those of ``dawid_skene``. Who always says the same, or guesses, has weight 0. Which
    response of a pair is called the first means nothing, so every pair counts both ways round.

    Pairs with one label and no known answer tell nothing of their rater and are left out. Who has no other pairs has
    the mean weight of those who have some.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        golden: int [n_items], the known answers, -1 where there is none; None where there are none.
        smoothing: as for ``dawid_skene``. At 1 a rater of few labels is not yet taken for good: one label gives a
            weight of at most 1/3.

    Returns:
        float64 [n_raters], 0 to 1; all 1 where nothing tells anybody from others: all labels are ties, or each pair has
        one alone.

    Raises:
        ValueError: if an array has another shape or other values.

    Example:
        >>> good, guesses = [0, 1] * 20, [0, 0, 1, 1] * 10
        >>> rater_weights(np.stack([good, good, good, guesses], axis=1)).round(2)
        array([0.95, 0.95, 0.95, 0.  ])

    Source: Dawid & Skene 1979; Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
    """
    table = checked_labels(labels)
    known = _known(golden, len(table))
    telling = telling_pairs(table, known)
    table, known = table[telling], known[telling]
    present = np.union1d(table, known)
    if not {0, 1} & set(present.tolist()):
        return np.ones(table.shape[1])
    found = both_ways(table, known, smoothing)
    right = np.einsum("j,kjj->k", found.priors, found.confusion)
    says = np.einsum("i,kij->kj", found.priors, found.confusion)
    by_chance = says @ found.priors
    weights = np.maximum(0.0, (right - by_chance) / np.maximum(1 - by_chance, 1e-12))
    measured = (table >= 0).any(0)
    return np.where(measured, weights, weights[measured].mean())


def telling_pairs(labels: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Find the pairs that tell something of who labelled them: two labels, or one and a known answer.

    Args:
        labels: int [n_items, n_raters], -1 where there is none.
        golden: int [n_items], -1 where there is none.

    Returns:
        bool [n_items].

    Example:
        >>> telling_pairs(np.array([[0, 1], [0, -1], [-1, 1]]), np.array([-1, -1, 0]))
        array([ True, False,  True])
    """
    given = (labels >= 0).sum(-1)
    return (given > 0) & (given + (golden >= 0) > 1)


def _known(golden: np.ndarray | None, items: int) -> np.ndarray:
    known = np.full(items, -1) if golden is None else np.asarray(golden)
    if known.shape != (items,) or (items and not (known.min() >= -1 and known.max() <= 2)):
        raise ValueError(f"expected golden answers from -1 to 2, [{items}], found {known!r:.60}")
    return known.astype(np.int64)
