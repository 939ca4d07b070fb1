"""Comparing segments of a trajectory: rewards per step, of which people saw only the sum."""

from __future__ import annotations

from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array
from rlhf_jax.losses.masked import masked_sum


def segment_scores(rewards: ArrayLike, mask: ArrayLike) -> Array:
    """Score of a segment, to be compared by ``bradley_terry``: the sum of the rewards of its steps.

    ``r(segment) = sum_t mask_t r_t``

    Args:
        rewards: [..., T], what a reward model gives each step or token.
        mask: [..., T], True on the steps of the segment.

    Returns:
        [...], float32, in units of reward; 0 for an empty segment.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from rlhf_jax.losses import bradley_terry
        >>> rewards = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, -jnp.inf]])  # two segments, the second one shorter
        >>> scores = segment_scores(rewards, jnp.array([[True, True, True], [True, True, False]]))
        >>> print(scores, bradley_terry(scores[0], scores[1]).round(4))  # equal, so log 2
        [1. 1.] 0.6931

    Source: Christiano et al. 2017, section 2.2.3 (arXiv:1706.03741).
    """
    return masked_sum(rewards, mask, axis=-1)
