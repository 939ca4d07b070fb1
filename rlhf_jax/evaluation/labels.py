"""What is odd about people's labels before anything is trained on them: their order, and the length they prefer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SKEW = 0.1  # how far from a half the share of votes for the first response may lie
LONGER = 0.8  # how often people may prefer the longer response
_FEWEST = 10  # rows that say anything


def label_warnings(share: ArrayLike, lengths: ArrayLike, placed: ArrayLike) -> list[str]:
    """Tell whether the labels of comparisons are skewed to one place or to length.

    Args:
        share: [m], the share of votes for the first response of every row, in the order in which the rows came.
        lengths: [m, 2], of both responses, in any unit.
        placed: bool [m], True where the order of a row's responses could have been any. Rows of ``chosen`` and
            ``rejected`` have no such order.

    Returns:
        A sentence for each fault: the mean share of the first response further than 0.1 from a half, and by more than
        two standard errors of even votes; the longer response preferred in more than 80% of the rows that have a
        majority and responses of unequal length. Fewer than ten rows say nothing.

    Example:
        >>> found = label_warnings([1.0] * 19 + [0.0], [[9, 9]] * 20, [True] * 20)
        >>> found[0][:69]
        'Labels are skewed: the first response of a row gets 95% of the votes.'
    """
    votes, sizes = np.asarray(share, np.float64), np.asarray(lengths, np.float64).reshape(-1, 2)
    found = []
    ordered = votes[np.asarray(placed, bool)]
    off = abs(ordered.mean() - 0.5) if len(ordered) >= _FEWEST else 0.0
    if off > SKEW and off > len(ordered) ** -0.5:
        found.append(
            f"Labels are skewed: the first response of a row gets {ordered.mean():.0%} of the votes. Raters may have "
            "been shown them in a fixed order; a model that learns the order looks accurate. Shuffle it before rating."
        )
    longer = np.sign(sizes[:, 0] - sizes[:, 1])
    decided = (longer != 0) & (np.abs(votes - 0.5) > 1e-6)
    if decided.sum() >= _FEWEST:
        wins = float((np.sign(votes - 0.5) == longer)[decided].mean())
        if wins > LONGER:
            found.append(
                f"Labels follow length: people prefer the longer response in {wins:.0%} of the rows. A reward model "
                "learns that first, and a policy then writes longer; add pairs whose shorter response is preferred."
            )
    return found
