"""Rankings of K responses for objectives on pairs: every ranking becomes the K(K-1)/2 pairs of its responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.data import Comparison
from rlhf_jax.data.parts import Parts


def in_pairs(parts: Parts) -> Parts:
    """Cut every comparison of more than two responses into pairs; all other rows stay as they are.

    Args:
        parts: typed rows.

    Returns:
        The parts; pairs on which nobody voted are left out.
    """
    found = {id(part): _cut(part) for part in parts[:3]}
    train, validation, test = (found[id(part)] for part in parts[:3])
    return parts._replace(train=train, validation=validation, test=test)


def _cut(rows: Sequence[Any]) -> list[Any]:
    return [pair for row in rows for pair in (pairs_of(row) if isinstance(row, Comparison) else [row])]


def pairs_of(row: Comparison) -> list[Comparison]:
    """List the pairs of a comparison of K responses, in the order of the row.

    Args:
        row: the comparison.

    Returns:
        Comparisons with K = 2; the row itself where it is one.

    Example:
        >>> votes = np.array([[0, 1, 1], [0, 0, 0.5], [0, 0.5, 0]], np.float32)
        >>> [pair.responses for pair in pairs_of(Comparison("Hi.", ("a", "b", "c"), votes, "x:1"))]
        [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    if len(row.responses) == 2:
        return [row]
    return [
        row._replace(responses=(row.responses[i], row.responses[j]), votes=row.votes[np.ix_((i, j), (i, j))])
        for i, j in zip(*np.triu_indices(len(row.responses), k=1), strict=True)
        if row.votes[i, j] + row.votes[j, i] > 0
    ]
