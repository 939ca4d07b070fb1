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
    rewards: ArrayLike, values: ArrayLike, mask: ArrayLike, *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Array, Array]:
    """Generalised advantage estimation over the tokens that count.

    ``delta_t = R_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lambda A_{t+1}``, ``returns_t = A_t + V_t``

    ``t + 1`` is the next token that *counts*: a token behind the mask (prompt, padding, a hole in between) is passed
    over as if the sequence had been cut there and joined. After the last one, V and A are 0.

    Args:
        rewards: [..., T].
        values: [..., T]; ``values[..., t]`` is the value of the state before token ``t``.
        mask: [..., T], True on response tokens.
        gamma: discount; 1 for responses, which end.
        gae_lambda: 0 trusts the critic (one step), 1 the observed rewards; usually 0.95.

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
    chex.assert_equal_shape([rewards, values, mask])  # [..., T]

    def step(after: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        next_value, next_advantage = after
        reward, value, counts = now
        delta = reward + gamma * next_value - value
        advantage = delta + gamma * gae_lambda * next_advantage
        carry = jnp.where(counts, value, next_value), jnp.where(counts, advantage, next_advantage)
        return carry, jnp.where(counts, advantage, 0)

    end = jnp.zeros_like(values[..., 0])
    time_first = jnp.moveaxis(rewards, -1, 0), jnp.moveaxis(values, -1, 0), jnp.moveaxis(mask, -1, 0)
    _, advantages = jax.lax.scan(step, (end, end), time_first, reverse=True)
    advantages = jnp.moveaxis(advantages, 0, -1)
    return advantages, advantages + values
