"""Synthetic raters: they prefer the segment with the higher true return, and err as often as they are told to."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array
from rlhf_jax.control.segments import Segments
from rlhf_jax.losses import segment_scores


def synthetic_preferences(key: Array, first: Segments, second: Segments, *, error_rate: float) -> Array:
    """Compare segments by their true returns.

    Args:
        key: draws the errors.
        first: [k].
        second: [k].
        error_rate: share of comparisons that come out the wrong way round; a tie has none.

    Returns:
        [k], 1 where the first is preferred, 0 where the second is, 1/2 where the returns are equal.

    Example:
        >>> good, bad = (Segments(jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 1)), jnp.full((1, 2), r)) for r in (1.0, 0.0))
        >>> print(synthetic_preferences(jax.random.key(0), good, bad, error_rate=0.0))
        [1.]
        >>> print(synthetic_preferences(jax.random.key(0), good, good, error_rate=0.5))
        [0.5]

    Source: Christiano et al. 2017, sections 2.2.3 and 3.1 (arXiv:1706.03741).
    """
    everywhere = jnp.ones(first.rewards.shape, bool)
    apart = segment_scores(first.rewards, everywhere) - segment_scores(second.rewards, everywhere)
    right = jnp.where(apart > 0, 1.0, jnp.where(apart < 0, 0.0, 0.5))
    return jnp.where(jax.random.bernoulli(key, error_rate, right.shape), 1 - right, right)
