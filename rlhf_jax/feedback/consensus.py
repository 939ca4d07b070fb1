"""What raters together say of each pair, and how good each of them is, where nobody knows the truth.

People and judges may stand in one table. Dawid and Skene take raters to err independently of each other; judges that
were made of the same model or the same data do not, and are then taken for better than they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.feedback.aggregation import DawidSkene, dawid_skene
from rlhf_jax.feedback.labels import checked_labels

_OTHER_WAY = np.array([1, 0, 2, -1])  # a label where the responses change places; the last is -1


class Consensus(NamedTuple):
    """What a table of labels comes to."""

    share: np.ndarray  # float64 [n_items]; the probability that the first is better, a tie half; NaN without a label
    right: np.ndarray  # float64 [n_raters]; how often each says what is true, as it is estimated; NaN without a label


def consensus(labels: np.ndarray, *, smoothing: float = 1.0) -> Consensus:
    """Estimate the truth of pairs together with every rater's errors, as ``dawid_skene`` does.

    Which response of a pair is called the first means nothing, so every pair counts both ways round.

    Args:
        labels: int [n_items, n_raters]: 0 the first response is preferred, 1 the second, 2 a tie, -1 not labelled.
        smoothing: as for ``dawid_skene``.

    Returns:
        The share of each pair, and how often each rater is right.

    Raises:
        ValueError: if labels are not whole numbers from -1 to 2, or there is none.

    Example:
        >>> good, guesses = [0, 1] * 20, [0, 0, 1, 1] * 10
        >>> found = consensus(np.stack([good, good, good, guesses], axis=1))
        >>> found.share[:4].round(2), found.right.round(2)
        (array([1., 0., 1., 0.]), array([0.98, 0.98, 0.98, 0.5 ]))

    Source: Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm".
    """
    table = checked_labels(labels)
    labelled = (table >= 0).any(1)
    if not labelled.any():
        raise ValueError("no pair has a label")
    unknown = np.full(int(labelled.sum()), -1)
    found = both_ways(table[labelled], unknown, smoothing)
    half = found.posteriors[: len(unknown)]
    share = np.full(len(table), np.nan)
    share[labelled] = half[:, 0] + (half[:, 2] / 2 if half.shape[1] > 2 else 0.0)
    right = np.einsum("j,kjj->k", found.priors, found.confusion)
    return Consensus(share, np.where((table >= 0).any(0), right, np.nan))


def both_ways(labels: np.ndarray, golden: np.ndarray, smoothing: float) -> DawidSkene:
    """Run ``dawid_skene`` on every pair both ways round; the first half of the posteriors are those of the table.

    Args:
        labels: int64 [n_items, n_raters], checked; every item has a label or a known answer.
        golden: int64 [n_items], the known answers, -1 where there is none.
        smoothing: as for ``dawid_skene``.
    """
    # Ties are no third outcome where nobody says one.
    classes = 3 if 2 in np.union1d(labels, golden) else 2
    table = np.concatenate([labels, _OTHER_WAY[labels]])
    return dawid_skene(table, classes=classes, smoothing=smoothing, known=np.concatenate([golden, _OTHER_WAY[golden]]))


def labels_of_votes(votes: np.ndarray) -> np.ndarray:
    """Make labels of a judge's votes, so that it may stand in a table beside people.

    Args:
        votes: [...], the share for the first response of each pair; NaN where the judge abstained.

    Returns:
        int64 [...]: 0 above one half, 1 below it, 2 at one half, -1 where it abstained.

    Example:
        >>> labels_of_votes([0.9, 0.2, 0.5, np.nan])
        array([ 0,  1,  2, -1])
    """
    v = np.asarray(votes, np.float64)
    return np.where(np.isnan(v), -1, np.where(v > 0.5, 0, np.where(v < 0.5, 1, 2))).astype(np.int64)
