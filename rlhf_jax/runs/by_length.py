"""Sequences in batches of about one length, so that little is padded and a few compiled programs serve all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BATCH = 64  # sequences at once
BATCH_TOKENS = 2**15  # tokens at once, where sequences are long
BUCKET = 32


def at_once(lengths: Sequence[int]) -> int:
    """Say how many sequences a batch holds: fewer where they are long, as padding takes as much memory as tokens.

    Args:
        lengths: tokens of every sequence.

    Returns:
        At least 1, at most ``BATCH``.

    Example:
        >>> at_once([20, 30]), at_once([2**14]), at_once([])
        (64, 2, 64)
    """
    return max(1, min(BATCH, BATCH_TOKENS // max(lengths, default=1)))


def by_length(lengths: Sequence[int], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut sequences into batches, the short ones first.

    Args:
        lengths: tokens of every sequence.
        size: sequences of a batch; the last one may have fewer.

    Yields:
        The places of a batch's sequences, int [at most size], and the tokens that its rows have room for.

    Example:
        >>> [(rows.tolist(), length) for rows, length in by_length([40, 5, 7], 2)]
        [([1, 2], 32), ([0], 64)]
    """
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, -(-max(lengths[i] for i in rows) // BUCKET) * BUCKET
