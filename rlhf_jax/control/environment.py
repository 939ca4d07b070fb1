"""What an environment is: pure functions over a state, without episodes, time limits or restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
State = Any  # a pytree of arrays


class Environment(NamedTuple):
    """One task: where it starts, what an action does, and what can be seen.

    Everything else, such as many copies side by side, restarts and the time limit, is the same for every environment
    and stands in ``episodes``.

    Args:
        name: what figures and errors call it.
        reset: key -> state.
        step: (key, state, action) -> (state, reward, terminated). The action is a whole number below ``action_size``,
            or [action_size] numbers, of which those outside -1 to 1 are clipped. ``terminated`` says that the task
            itself is over; that time is up is no matter of the environment.
        observe: state -> [observation_size], float32, all that the policy and the reward model see.
        observation_size: how many numbers an observation has.
        action_size: how many actions there are, or how many numbers one has.
        discrete: whether an action is one of ``action_size``, or that many numbers.
        time_limit: steps after which an episode is cut off.

    Example:
        >>> from rlhf_jax.control import line
        >>> environment = line()
        >>> state = environment.reset(jax.random.key(0))
        >>> state, reward, terminated = environment.step(jax.random.key(1), state, jnp.array(1))
        >>> environment.observe(state).shape, bool(terminated)
        ((2,), False)
    """

    name: str
    reset: Callable[[Array], State]
    step: Callable[[Array, State, Array], tuple[State, Array, Array]]
    observe: Callable[[State], Array]
    observation_size: int
    action_size: int
    discrete: bool
    time_limit: int


def choose(condition: Array, if_true: Any, if_false: Any) -> Any:
    """Choose one of two states by a condition, leaf by leaf.

    Args:
        condition: [], bool.
        if_true: a pytree of arrays.
        if_false: a pytree of the same structure and shapes.

    Returns:
        A pytree like both.

    Example:
        >>> print(choose(jnp.array(True), {"x": jnp.array(1.0)}, {"x": jnp.array(2.0)})["x"])
        1.0
    """
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)
