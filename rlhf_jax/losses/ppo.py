"""The two clipped losses of PPO, per token: one for the policy, one for the critic."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float
from rlhf_jax.losses.checks import check_range

# exp overflows float32 at 88.7. An infinite ratio in the branch that the minimum rejects still makes the gradient NaN.
MAX_LOG_RATIO = 80.0


def clipped_surrogate(
    logprobs: ArrayLike,
    old_logprobs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Array:
    """PPO's policy loss: no gain from moving a token's probability further than the clip range.

    ``L_t = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)``, ``rho = exp(logp - old_logp)``;
    with dual clip, where ``A < 0``: ``L_t = -max(min(...), dual_clip A)``

    At ``logp = old_logp`` the ratio is 1 and the gradient is the policy gradient, ``-A grad logp``.

    Args:
        logprobs: [..., T], under the policy that is trained.
        old_logprobs: [..., T], under the policy that sampled; a constant to the caller's gradient.
        advantages: [..., T]; a constant too.
        clip_low: room below 1, usually 0.2; inf switches the lower clip off.
        clip_high: room above 1, usually 0.2; DAPO uses 0.28 to keep exploring; inf switches the upper clip off.
        dual_clip: bounds the loss of a token with a negative advantage whose ratio explodes; above 1, usually 3.

    Returns:
        [..., T], float32, unreduced. A log-ratio above 80 is taken as 80, and has no gradient.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if a clip is not above 0, or ``dual_clip`` not above 1.

    Example:
        >>> logprobs, old = jnp.log(jnp.array([0.5, 0.5, 0.5])), jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(clipped_surrogate(logprobs, old, jnp.array([1.0, 1.0, -1.0]), clip_high=0.25))  # ratios 1, 2, 2
        [-1.   -1.25  2.  ]

    Source: Schulman et al. 2017, eq. 7 (arXiv:1707.06347); dual clip: Ye et al. 2020 (arXiv:1912.09729); two clip
    ranges: Yu et al. 2025, DAPO (arXiv:2503.14476).
    """
    check_range("clip_low", clip_low, above=0)
    check_range("clip_high", clip_high, above=0)
    if dual_clip is not None:
        check_range("dual_clip", dual_clip, above=1)
    logprobs, old_logprobs, advantages = as_float(logprobs), as_float(old_logprobs), as_float(advantages)
    chex.assert_equal_shape([logprobs, old_logprobs, advantages])  # [..., T]
    ratio = jnp.exp(jnp.minimum(logprobs - old_logprobs, MAX_LOG_RATIO))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    gain = jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        gain = jnp.where(advantages < 0, jnp.maximum(gain, dual_clip * advantages), gain)
    return -gain


def clipped_value(values: ArrayLike, old_values: ArrayLike, returns: ArrayLike, *, clip: float = 0.2) -> Array:
    """PPO's critic loss: squared error, with no gain from moving a value further than the clip range.

    ``L_t = 0.5 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)``

    Args:
        values: [..., T], the critic's now.
        old_values: [..., T], the critic's when the batch was prepared; a constant to the caller's gradient.
        returns: [..., T], advantages + old values; a constant too.
        clip: ``c``, in units of reward; usually 0.2; inf switches it off.

    Returns:
        [..., T], float32, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``clip`` is not above 0.

    Example:
        >>> print(clipped_value(jnp.array([1.0]), jnp.array([0.0]), jnp.array([1.0]), clip=0.5))  # 0.5 (0.5 - 1)^2
        [0.125]

    Source: the PPO of OpenAI Baselines; described in Engstrom et al. 2020, section 3 (arXiv:2005.12729).
    """
    check_range("clip", clip, above=0)
    values, old_values, returns = as_float(values), as_float(old_values), as_float(returns)
    chex.assert_equal_shape([values, old_values, returns])  # [..., T]
    clipped = jnp.clip(values, old_values - clip, old_values + clip)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns))
