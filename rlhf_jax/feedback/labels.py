"""A table of labels of pairs, [n_items, n_raters], checked; the majority of the others, and who agrees with what."""

from __future__ import annotations

import numpy as np

from rlhf_jax.feedback.agreement import krippendorff_alpha

_SHARES = np.array([1.0, 0.0, 0.5])  # what the first response gets of a vote, by label
_NET = np.array([1.0, -1.0, 0.0, 0.0])  # votes for the first less those for the second, by label; the last is -1


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Check a table of labels.

    Args:
        labels: int [n_items, n_raters]: 0 the first response is preferred, 1 the second, 2 a tie, -1 not labelled.

    Returns:
        int64, the same.

    Raises:
        ValueError: if it is something else.
    """
    table = np.asarray(labels)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"expected integer labels [n_items, n_raters], found {table.dtype} {list(table.shape)}")
    if table.size and (table.min() < -1 or table.max() > 2):
        raise ValueError(f"labels must lie in -1 to 2, found {table.min()} to {table.max()}")
    return table.astype(np.int64)


def labels_of(row: np.ndarray) -> np.ndarray:
    """The labels of an item, or of a rater, without those that were not given.

    Example:
        >>> labels_of(np.array([0, -1, 2]))
        array([0, 2])
    """
    return row[row >= 0]


def majority_of_others(labels: np.ndarray) -> np.ndarray:
    """For every label the majority of the other raters of its item; -1 where they have none.

    A tie is half a vote for either response, and where all others say tie that is their majority.

    Args:
        labels: int64 [n_items, n_raters], checked.

    Returns:
        int64 [n_items, n_raters], 0, 1, 2 or -1.

    Example:
        >>> majority_of_others(np.array([[0, 0, 1]]))  # 0 and 1 are no majority, 0 and 0 are
        array([[-1, -1,  0]])
    """
    net = _NET[labels]
    others = net.sum(-1, keepdims=True) - net
    given, tied = labels >= 0, labels == 2
    count = given.sum(-1, keepdims=True) - given
    all_tied = (count > 0) & (tied.sum(-1, keepdims=True) - tied == count)
    return np.where(others > 0, 0, np.where(others < 0, 1, np.where(all_tied, 2, -1)))


def agreements(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far each label agrees with another one: 1 the same, 0 the opposite, 1/2 where only one of them is a tie.

    Args:
        labels: int64 [n_items, n_raters], checked.
        truth: int64 of the same shape; -1 where there is nothing to agree with.

    Returns:
        float64 of the same shape, NaN where one of the two is missing.

    Example:
        >>> agreements(np.array([[0, 1, 2, -1]]), np.array([[0, 0, 0, 0]]))
        array([[1. , 0. , 0.5, nan]])
    """
    half = np.where((labels == 2) | (truth == 2), 0.5, 0.0)
    return np.where((labels < 0) | (truth < 0), np.nan, np.where(labels == truth, 1.0, half))


def mean_by_rater(agreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average what ``agreements`` gives over the items of each rater.

    Args:
        agreement: float64 [n_items, n_raters], NaN where nothing counts.

    Returns:
        float64 [n_raters], NaN where nothing counts for a rater; and how many items do, int64 [n_raters].
    """
    counted = np.isfinite(agreement)
    n = counted.sum(0)
    total = np.where(counted, agreement, 0.0).sum(0)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0), n


def label_alpha(labels: np.ndarray) -> float:
    """Krippendorff's alpha of a table of labels, in which a tie lies halfway between the two responses.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.

    Returns:
        ``krippendorff_alpha`` of their shares, level "interval"; NaN where no pair has two labels, or all are equal.

    Raises:
        ValueError: if labels are not whole numbers from -1 to 2.

    Example:
        >>> label_alpha([[0, 0], [1, 1]]), label_alpha([[0, 0]])
        (1.0, nan)
    """
    table = checked_labels(labels)
    items = [_SHARES[labels_of(row)] for row in table if len(labels_of(row)) > 1]
    if not items or len(np.unique(np.concatenate(items))) == 1:
        return float("nan")
    return krippendorff_alpha(items)
