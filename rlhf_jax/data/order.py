"""The order of an epoch, a pure function of its arguments: the same on any machine and after any resume."""

from __future__ import annotations

import functools
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
# grain permutes this many numbers at least and passes over those that are too large: the order of 8 rows takes 27 ms,
# that of 1,000 takes 36. A stage asks for every order twice or more: to plan its batches, and to make them.
SMALL = 2**16


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle ``n`` indices for one epoch.

    Args:
        n: how many there are.
        seed: the run's seed, 0 or more.
        epoch: which pass over the data, 0 or more; each has an order of its own.

    Returns:
        int64 [n], a permutation.

    Example:
        >>> order = epoch_order(1000, seed=0, epoch=3)
        >>> sorted(order.tolist()) == list(range(1000)), (order == epoch_order(1000, seed=0, epoch=3)).all()
        (True, np.True_)
    """
    if n == 0:
        return np.zeros(0, np.int64)
    return (_kept if n <= SMALL else _shuffled)(n, seed, epoch).copy()


def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """Compute the order of one epoch."""
    import grain  # here, because a machine without it can still train on batches of its own

    # grain takes 32 bits of seed; mixing makes (seed 0, epoch 1) and (seed 1, epoch 0) differ
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    shuffled = grain.MapDataset.range(n).shuffle(seed=mixed)
    return np.fromiter((shuffled[i] for i in range(n)), np.int64, n)


_kept = functools.lru_cache(maxsize=64)(_shuffled)  # 32 MiB at most


def evenly(items: list[Item], count: int) -> list[Item]:
    """Take ``count`` items spread over the list, the same ones every time; all of them where there are fewer.

    Example:
        >>> evenly([1, 2, 3, 4, 5], 3), evenly([1, 2], 3)
        ([1, 3, 5], [1, 2])
    """
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]
