"""One label an item from many raters: the most frequent one, or one that weighs raters by how often they are right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class DawidSkene(NamedTuple):
    """What ``dawid_skene`` found: the true labels, how frequent they are, and every rater's errors."""

    posteriors: np.ndarray  # float64 [n_items, classes]; the probability of each true label, rows sum to 1
    priors: np.ndarray  # float64 [classes]; how frequent each true label is
    confusion: np.ndarray  # float64 [n_raters, classes, classes]; [k, j, l] = P(rater k says l | the truth is j)
    iterations: int  # how many were done; as many as were allowed if it did not settle


def majority(labels: np.ndarray, *, classes: int) -> np.ndarray:
    """The label that most raters gave, every rater counting the same.

    ``majority_i = argmax_j sum_k 1[labels_ik = j]``

    Args:
        labels: int [n_items, n_raters], from 0 to classes - 1; -1 where a rater did not label an item.
        classes: how many labels there are, at least 2.

    Returns:
        int64 [n_items]; -1 where several labels are the most frequent: a tie is nobody's majority.

    Raises:
        ValueError: if labels are not whole numbers from -1 to classes - 1, an item has none, or classes is below 2.

    Example:
        >>> majority([[0, 1, 1], [2, 0, -1]], classes=3)
        array([ 1, -1])
    """
    counts = _vote_counts(_checked(labels, classes), classes)
    most = counts.max(-1, keepdims=True)
    return np.where((counts == most).sum(-1) == 1, counts.argmax(-1), -1)


def dawid_skene(
    labels: np.ndarray,
    *,
    classes: int,
    iterations: int = 100,
    tolerance: float = 1e-6,
    smoothing: float = 0.01,
    known: np.ndarray | None = None,
) -> DawidSkene:
    """Estimate the true labels together with every rater's errors, by expectation maximisation.

    Given the truth, raters are taken to err independently, each in their own way. ``T_ij``, the probability that item i
    is of class j, starts as its share of the votes; then, in turn and over the labels that were given,

    - ``p_j = mean_i T_ij``
    - ``confusion_kjl = (smoothing + sum_i T_ij 1[labels_ik = l]) / (the same, summed over l)``
    - ``T_ij ~ p_j prod_k confusion_k,j,labels_ik``, and ``sum_j T_ij = 1``

    No step lowers ``sum_i log sum_j p_j prod_k confusion_k,j,labels_ik + smoothing sum_kjl log confusion_kjl``. Nothing
    is drawn at random. A label means what most raters mean by it: if most are wrong more often than right, so is the
    result.

    Args:
        labels: int [n_items, n_raters], from 0 to classes - 1; -1 where a rater did not label an item.
        classes: how many labels there are, at least 2.
        iterations: the most to do; tens are usual, more where raters are poor.
        tolerance: the estimation stops once no posterior moves by more than this.
        smoothing: labels added to each cell of each confusion matrix, so that a rater of few labels is not taken to be
            infallible; at 0 it is the maximum likelihood of the paper. A row without any labels is uniform.
        known: int [n_items], the true label of items whose answer is known, -1 elsewhere; None where none is. What is
            known is not estimated, and measures the raters.

    Returns:
        Posteriors, priors, confusion matrices and the number of iterations; the posteriors are those of the matrices.

    Raises:
        ValueError: if labels are not whole numbers from -1 to classes - 1, an item has none, classes is below 2,
            iterations below 1, tolerance or smoothing below 0, or ``known`` is not one such label an item.

    Example:
        >>> good, poor = [0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]
        >>> found = dawid_skene(np.stack([good, good, poor], axis=1), classes=2)
        >>> found.posteriors.argmax(-1)
        array([0, 0, 0, 1, 1, 1])
        >>> found.confusion[:, 0, 0].round(2)  # how often each is right about class 0
        array([1.  , 1.  , 0.67])

    Source: Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm".
    """
    table = _checked(labels, classes)
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, found {iterations}")
    for name, value in (("tolerance", tolerance), ("smoothing", smoothing)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, found {value}")
    item, rater = np.nonzero(table >= 0)
    label = table[item, rater]
    counts = _vote_counts(table, classes)
    truth = _known(known, len(table), classes)
    posteriors = _settled(counts / counts.sum(-1, keepdims=True), truth)
    done, moved = 0, np.inf
    while done < iterations and moved > tolerance:
        priors, confusion = _maximise(posteriors, item, rater, label, table.shape[1], smoothing)
        before = posteriors
        posteriors = _settled(_expect(priors, confusion, item, rater, label, len(table)), truth)
        done, moved = done + 1, np.abs(posteriors - before).max()
    return DawidSkene(posteriors, priors, confusion, done)


def _maximise(
    posteriors: np.ndarray, item: np.ndarray, rater: np.ndarray, label: np.ndarray, n_raters: int, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    classes = posteriors.shape[1]
    given = np.full((n_raters, classes, classes), float(smoothing))  # [rater, label, truth]
    np.add.at(given, (rater, label), posteriors[item])
    total = given.sum(1, keepdims=True)
    confusion = np.where(total > 0, given / np.where(total > 0, total, 1), 1 / classes)
    return posteriors.mean(0), confusion.transpose(0, 2, 1)


def _expect(
    priors: np.ndarray, confusion: np.ndarray, item: np.ndarray, rater: np.ndarray, label: np.ndarray, n_items: int
) -> np.ndarray:
    # in logarithms: the product over many raters is too small for a float
    with np.errstate(divide="ignore"):
        log_prior, log_confusion = np.log(priors), np.log(confusion)
    joint = np.tile(log_prior, (n_items, 1))
    np.add.at(joint, item, log_confusion[rater, :, label])
    odds = np.exp(joint - joint.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def _known(known: np.ndarray | None, items: int, classes: int) -> np.ndarray:
    truth = np.full(items, -1) if known is None else np.asarray(known)
    if truth.shape != (items,) or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"known must be one whole number an item, [{items}], found {truth.dtype} {list(truth.shape)}")
    if items and (truth.min() < -1 or truth.max() >= classes):
        raise ValueError(f"known must lie in -1 to {classes - 1}, found {truth.min()} to {truth.max()}")
    return truth


def _settled(posteriors: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The posteriors, with certainty about the items whose answer is known."""
    return np.where((truth >= 0)[:, None], np.arange(posteriors.shape[1]) == truth[:, None], posteriors)


def _vote_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([(labels == j).sum(-1) for j in range(classes)], axis=-1)


def _checked(labels: np.ndarray, classes: int) -> np.ndarray:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, found {classes}")
    table = np.asarray(labels)
    if table.ndim != 2 or not table.size or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"expected integer labels [n_items, n_raters], found {table.dtype} {list(table.shape)}")
    if table.min() < -1 or table.max() >= classes:
        raise ValueError(f"labels must lie in -1 to {classes - 1}, found {table.min()} to {table.max()}")
    unlabelled = (table < 0).all(-1)
    if unlabelled.any():
        raise ValueError(f"item {int(unlabelled.argmax())} has no label; leave it out")
    return table.astype(np.int64)
