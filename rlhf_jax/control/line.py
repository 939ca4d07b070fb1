"""The smallest environment: a point that is pushed along a line. Tests and examples need no other package for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array, Environment, State


def line(*, limit: float = 1.0, time_limit: int = 50) -> Environment:
    """Make a point on a line, to be kept near 0 by pushes to the left, none, and to the right.

    ``x' = x + 0.1 v'``, ``v' = v + 0.1 (action - 1)``, ``reward = 1 - |x'|``

    Args:
        limit: how far from 0 the task is over; inf never ends it.
        time_limit: steps of an episode.

    Example:
        >>> environment = line()
        >>> state = jnp.array([0.5, 0.0])  # where it is and how fast
        >>> state, reward, terminated = environment.step(jax.random.key(0), state, jnp.array(0))
        >>> [round(float(x), 3) for x in (*state, reward)], bool(terminated)
        ([0.49, -0.1, 0.51], False)
    """

    def reset(key: Array) -> State:
        return jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)

    def step(key: Array, state: State, action: Array) -> tuple[State, Array, Array]:
        speed = state[1] + 0.1 * (action - 1)
        place = state[0] + 0.1 * speed
        return jnp.stack([place, speed]), 1 - jnp.abs(place), jnp.abs(place) > limit

    return Environment("line", reset, step, lambda state: state, 2, 3, True, time_limit)
