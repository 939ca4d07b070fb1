"""Advantages over rows that hold several episodes: an end that was the task's is final, a cut is not."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.control.environment import Array
from rlhf_jax.control.episodes import Step


def advantages_and_returns(
    rewards: Array, values: Array, after: Array, step: Step, *, gamma: float, gae_lambda: float
) -> tuple[Array, Array]:
    """Estimate advantages by ``losses.gae``, with a value for the future wherever a task was cut off before its end.

    ``R_t = r_t + gamma V(after_t)`` where time was up or the row ends, ``R_t = r_t`` elsewhere, where a task ended too

    Args:
        rewards: [N, T], true or learnt.
        values: [N, T], of what was seen before the action.
        after: [N, T], of what was seen after it, before any restart.
        step: which steps ended an episode, and why.
        gamma: discount.
        gae_lambda: 0 trusts the critic, 1 the observed rewards.

    Returns:
        Advantages and returns, each [N, T], float32.

    Example:
        >>> fell, time_up = jnp.array([[False, True]]), jnp.array([[False, False]])
        >>> step = Step(jnp.ones((1, 2)), fell, time_up, jnp.zeros((1, 2, 1)))
        >>> values = jnp.zeros((1, 2)), jnp.full((1, 2), 10.0)
        >>> print(advantages_and_returns(step.reward, *values, step, gamma=1.0, gae_lambda=1.0)[1])
        [[2. 1.]]
        >>> step = step._replace(terminated=time_up, truncated=fell)
        >>> print(advantages_and_returns(step.reward, *values, step, gamma=1.0, gae_lambda=1.0)[1])
        [[12. 11.]]

    Source: Pardo et al. 2018, Time limits in reinforcement learning (arXiv:1712.00378).
    """
    row_ends = jnp.arange(rewards.shape[-1]) == rewards.shape[-1] - 1
    ends = step.terminated | step.truncated | row_ends[None]
    rewards = rewards + gamma * jnp.where(ends & ~step.terminated, after, 0)
    return losses.gae(rewards, values, jnp.ones_like(ends), gamma=gamma, gae_lambda=gae_lambda, ends=ends)
