"""Whether raters change: agreement with the others early and late, and by period of the whole collection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.feedback.labels import agreements, checked_labels, label_alpha, majority_of_others, mean_by_rater


class Drift(NamedTuple):
    """Agreement with the majority of the others in both halves of each rater's labels, by time; NaN without any."""

    early: np.ndarray  # float64 [n_raters]
    early_n: np.ndarray  # int64 [n_raters]; pairs that count
    late: np.ndarray  # float64 [n_raters]
    late_n: np.ndarray  # int64 [n_raters]

    @property
    def change(self) -> np.ndarray:
        """By how much each rater agrees more, later on: float64 [n_raters]."""
        return self.late - self.early


class Periods(NamedTuple):
    """A collection cut into P periods with as many labels each."""

    start: np.ndarray  # float64 [P]; seconds since 1970 of the first label
    n: np.ndarray  # int64 [P, n_raters]; labels of each rater
    agreement: np.ndarray  # float64 [P, n_raters]; with the majority of the others, NaN without any
    alpha: np.ndarray  # float64 [P]; Krippendorff's, of the items whose last label is in the period; NaN without any


def drift(labels: np.ndarray, times: np.ndarray) -> Drift:
    """Compare each rater's agreement with the others in the first and in the second half of their labels.

    The majority is that of all labels that others gave the item, whenever they gave them. A label without a time is in
    neither half; the middle one of an odd number is in the first.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        times: float [n_items, n_raters], seconds; NaN where nobody knows.

    Returns:
        The agreement of both halves.

    Raises:
        ValueError: if the shapes differ or labels are not whole numbers from -1 to 2.

    Example:
        >>> labels = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 0]])
        >>> drift(labels, np.arange(4.0)[:, None] * np.ones(4)).change
        array([ 0.,  0.,  0., -1.])
    """
    table, when = _checked(labels, times)
    each = agreements(table, majority_of_others(table))
    timed = (table >= 0) & np.isfinite(when)
    halves = []
    for late in (False, True):
        chosen = np.zeros(table.shape, bool)
        for k in range(table.shape[1]):
            own = np.flatnonzero(timed[:, k])
            own = own[np.argsort(when[own, k], kind="stable")]
            middle = -(-len(own) // 2)
            chosen[own[middle:] if late else own[:middle], k] = True
        halves.append(mean_by_rater(np.where(chosen, each, np.nan)))
    (early, early_n), (late_share, late_n) = halves
    return Drift(early, early_n, late_share, late_n)


def by_period(labels: np.ndarray, times: np.ndarray, periods: int = 4) -> Periods:
    """Follow agreement over the time of a collection, in periods with as many labels each.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        times: float [n_items, n_raters], seconds; labels without a time, NaN, are left out.
        periods: P, the most there are; fewer where there are fewer labels.

    Returns:
        The figures of each period.

    Raises:
        ValueError: if the shapes differ, labels are not whole numbers from -1 to 2, or periods is below 1.

    Example:
        >>> labels = np.array([[0, 0], [1, 1], [0, 1], [1, 0]])
        >>> found = by_period(labels, np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), periods=2)
        >>> found.start, found.alpha
        (array([0., 4.]), array([ 1. , -0.5]))
    """
    if periods < 1:
        raise ValueError(f"periods must be at least 1, found {periods}")
    table, when = _checked(labels, times)
    timed = np.where((table >= 0) & np.isfinite(when), when, np.nan)
    ordered = np.sort(timed[np.isfinite(timed)])
    parts = [part for part in np.array_split(ordered, periods) if len(part)]
    start = np.array([part[0] for part in parts])
    start, n_raters = np.unique(start), table.shape[1]  # labels of one moment are in one period
    each = agreements(table, majority_of_others(table))
    period = np.where(np.isfinite(timed), np.searchsorted(start, np.nan_to_num(timed), side="right") - 1, -1)
    last = period.max(-1, initial=-1)  # each item's
    agreement, n = np.full((len(start), n_raters), np.nan), np.zeros((len(start), n_raters), np.int64)
    for p in range(len(start)):
        agreement[p], _ = mean_by_rater(np.where(period == p, each, np.nan))
        n[p] = (period == p).sum(0)
    alpha = np.array([label_alpha(table[last == p]) for p in range(len(start))])
    return Periods(start, n, agreement, alpha)


def _checked(labels: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table, when = checked_labels(labels), np.asarray(times, np.float64)
    if when.shape != table.shape:
        raise ValueError(f"expected times {list(table.shape)} beside the labels, found {list(when.shape)}")
    return table, when
