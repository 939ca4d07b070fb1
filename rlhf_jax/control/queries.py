"""Which pairs of segments to ask about, and when."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from rlhf_jax.control.ensemble import Ensemble, differences
from rlhf_jax.control.environment import Array
from rlhf_jax.control.networks import Moments
from rlhf_jax.control.segments import Segments, take
from rlhf_jax.losses.checks import check_range


class Pairs(NamedTuple):
    """Pairs of segments to be compared, the most disputed first.

    Args:
        first: [k].
        second: [k].

    Example:
        >>> segments = Segments(np.zeros((4, 5, 2)), np.zeros((4, 5, 3)), np.zeros((4, 5)))
        >>> random_pairs(jax.random.key(0), segments, 6).first.rewards.shape
        (6, 5)
    """

    first: Segments
    second: Segments


def random_pairs(key: Array, segments: Segments, count: int) -> Pairs:
    """Draw pairs of two different segments.

    Args:
        key: draws it.
        segments: [S], at least two.
        count: k, how many pairs; a segment may be in several.

    Returns:
        [k].

    Raises:
        ValueError: there is only one segment.
    """
    n = segments.rewards.shape[0]
    if n < 2:
        raise ValueError(f"a pair takes two segments, found {n}; act in more copies or for more steps")
    for_first, for_second = jax.random.split(key)
    first = jax.random.randint(for_first, (count,), 0, n)
    second = (first + jax.random.randint(for_second, (count,), 1, n)) % n
    return Pairs(take(segments, first), take(segments, second))


def disputed_pairs(
    key: Array, ensemble: Ensemble, moments: Moments, segments: Segments, count: int, *, candidates: int
) -> Pairs:
    """Choose the pairs on which the members of an ensemble disagree most.

    ``variance over members of sigmoid(score(first) - score(second))``

    Args:
        key: draws the candidates.
        ensemble: whose members.
        moments: mean and variance of the observations.
        segments: [S].
        count: k.
        candidates: pairs that are looked at for each one chosen; 1 chooses at random.

    Returns:
        [k], the most disputed first.

    Source: Christiano et al. 2017, section 2.2.4 (arXiv:1706.03741).
    """
    pairs = random_pairs(key, segments, count * candidates)
    disputes = jax.nn.sigmoid(differences(ensemble, moments, *pairs)).var(0)
    _, rows = jax.lax.top_k(disputes, count)
    return take(pairs, rows)


def label_schedule(labels: int, iterations: int, *, first_share: float) -> np.ndarray:
    """Say how many labels are asked for, before the first iteration and in each.

    The rate falls as ``1 / (1 + 4 t / iterations)``, to a fifth of what it was: early labels are about a policy that
    soon is another one, but without them there would be none.

    Args:
        labels: in all.
        iterations: iterations of training.
        first_share: share of the labels, asked for before the first iteration.

    Returns:
        [1 + iterations], int32, with the sum ``labels``.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> label_schedule(20, 5, first_share=0.25).tolist()
        [5, 6, 3, 3, 2, 1]

    Source: Christiano et al. 2017, appendix A (arXiv:1706.03741).
    """
    check_range("labels", labels, at_least=0)
    check_range("iterations", iterations, at_least=1)
    check_range("first_share", first_share, at_least=0, at_most=1)
    first = round(first_share * labels)
    rates = 1 / (1 + 4 * np.arange(iterations) / iterations)
    so_far = np.rint((labels - first) * np.cumsum(rates) / rates.sum()).astype(np.int32)
    return np.concatenate([[first], np.diff(so_far, prepend=0)]).astype(np.int32)
