"""The policy gradient itself: what REINFORCE and A2C descend, and every clipped surrogate at ratio 1."""

from __future__ import annotations

import chex
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float


def policy_gradient(logprobs: ArrayLike, advantages: ArrayLike) -> Array:
    """A loss whose gradient is the policy gradient; its value means nothing.

    ``L_t = -A_t log pi(y_t)``

    Unbiased only for tokens sampled from the very policy that is trained; for older samples there is
    ``clipped_surrogate``.

    Args:
        logprobs: [..., T], under the policy that is trained and that sampled, nats.
        advantages: [..., T], in units of reward; a constant to the caller's gradient.

    Returns:
        [..., T], float32, unreduced.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> print(policy_gradient(jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])))
        [ 3. -1.]

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning";
    with a critic: Mnih et al. 2016 (arXiv:1602.01783).
    """
    logprobs, advantages = as_float(logprobs), as_float(advantages)
    chex.assert_equal_shape([logprobs, advantages])  # [..., T]
    return -advantages * logprobs
