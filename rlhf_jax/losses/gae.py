"""Credit assignment: from rewards and a critic's values to advantages."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_mask
from rlhf_jax.losses.checks import check_range
from rlhf_jax.losses.masked import masked_fill


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    ends: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Generalised advantage estimation over the tokens that count.

    ``delta_t = R_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lambda A_{t+1}``, ``returns_t = A_t + V_t``

    ``t + 1`` is the next token that *counts*: a token behind the mask (prompt, padding, a hole in between) is passed
    over as if the sequence had been cut there and joined. After the last one, and after one that ``ends``, V
    and A are 0.

    Args:
        rewards: [..., T].
        values: [..., T]; ``values[..., t]`` is the value of the state before token ``t``.
        mask: [..., T], True on response tokens.
        gamma: discount; 1 for responses, which end.
        gae_lambda: 0 trusts the critic (one step), 1 the observed rewards; usually 0.95.
        ends: [..., T], True on a step that counts and that is the last of its episode, where a row holds several, as in
            control; a response is a row of its own and needs none.

    Returns:
        Advantages (not whitened) and returns, each [..., T], float32; 0 behind the mask.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``gamma`` or ``gae_lambda`` is outside [0, 1].

    Example:
        >>> advantages, returns = gae(jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5]), jnp.array([1, 1]), gae_lambda=0.5)
        >>> print(advantages, returns)
        [0.25 0.5 ] [0.75 1.  ]

    Source: Schulman et al. 2016, eq. 16 (arXiv:1506.02438).
    """
    check_range("gamma", gamma, at_least=0, at_most=1)
    check_range("gae_lambda", gae_lambda, at_least=0, at_most=1)
    mask = as_mask(mask)
    rewards, values = masked_fill(rewards, mask), masked_fill(values, mask)
    ends = jnp.zeros_like(mask) if ends is None else as_mask(ends)
    chex.assert_equal_shape([rewards, values, mask, ends])  # [..., T]

    def step(after: tuple[Array, Array], now: tuple[Array, Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        reward, value, counts, last = now
        next_value, next_advantage = (jnp.where(counts & last, 0, x) for x in after)
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * gae_lambda * next_advantage
        carry = jnp.where(counts, value, next_value), jnp.where(counts, advantage, next_advantage)
        return carry, jnp.where(counts, advantage, 0)

    zero = jnp.zeros_like(values[..., 0])
    rewards, masks, ends = (jnp.moveaxis(x, -1, 0) for x in (rewards, mask, ends))  # time first
    _, advantages = jax.lax.scan(step, (zero, zero), (rewards, jnp.moveaxis(values, -1, 0), masks, ends), reverse=True)
    advantages = jnp.moveaxis(advantages, 0, -1)
    return advantages, advantages + values
