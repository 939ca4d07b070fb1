"""What is odd about people's labels before anything is trained on them: their order, and the length they prefer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SKEW = 0.1  # how far from a half the share of rows whose first response is preferred may lie
LONGER = 0.8  # how often people may prefer the longer response
_FEWEST = 10  # rows that say anything
_EVEN = 1e-6  # shares of votes that differ by less are the same


def label_warnings(share: ArrayLike, lengths: ArrayLike, placed: ArrayLike) -> list[str]:
    """Tell whether the labels of comparisons are skewed to one place or to length.

    Args:
        share: [m], the share of votes for the first response of every row, in the order in which the rows came.
        lengths: [m, 2], of both responses, in any unit.
        placed: bool [m], True where the order of a row's responses could have been any. Rows of ``chosen`` and
            ``rejected`` have no such order.

    Returns:
        A sentence for each fault. Skewed: among the rows that have a majority, the share whose first response is
        preferred lies further than 0.1 from a half, and further than two standard errors of an even share. Length: the
        longer response is preferred in more than 80% of the rows that have a majority and responses of unequal length.
        Fewer than ten rows say nothing.

    Example:
        >>> found = label_warnings([1.0] * 19 + [0.0], [[9, 9]] * 20, [True] * 20)
        >>> found[0][:70]
        'Labels are skewed: the first response is preferred in 95% of the rows.'
    """
    votes, sizes = np.asarray(share, np.float64), np.asarray(lengths, np.float64).reshape(-1, 2)
    found = []
    ordered = votes[np.asarray(placed, bool)]
    ordered = ordered[np.abs(ordered - 0.5) > _EVEN]
    first = float((ordered > 0.5).mean()) if len(ordered) >= _FEWEST else 0.5
    if abs(first - 0.5) > max(SKEW, max(1, len(ordered)) ** -0.5):
        found.append(
            f"Labels are skewed: the first response is preferred in {first:.0%} of the rows. Raters may have "
            "been shown them in a fixed order; a model that learns the order looks accurate. Shuffle it before rating."
        )
    longer = np.sign(sizes[:, 0] - sizes[:, 1])
    decided = (longer != 0) & (np.abs(votes - 0.5) > _EVEN)
    if decided.sum() >= _FEWEST:
        wins = float((np.sign(votes - 0.5) == longer)[decided].mean())
        if wins > LONGER:
            found.append(
                f"Labels follow length: people prefer the longer response in {wins:.0%} of the rows. A reward model "
                "learns that first, and a policy then writes longer; add pairs whose shorter response is preferred."
            )
    return found
