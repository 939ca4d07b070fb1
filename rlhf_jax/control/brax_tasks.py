"""Bodies of brax (extra ``brax``): hopper, half-cheetah and others, moved by torques."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array, Environment, State
from rlhf_jax.losses.checks import check_range


def from_brax(name: str, *, backend: str = "spring", time_limit: int = 1000, starts: int = 64) -> Environment:
    """Make an environment from a task of brax, with its dynamics, rewards and ends.

    A first state takes brax much arithmetic, and programs restart inside the loop over steps. So some first states are
    made here once, and an episode begins from one of them.

    Args:
        name: brax's, such as ``hopper`` or ``halfcheetah``.
        backend: brax's physics: ``spring`` is the fastest to compile and to run, ``generalized`` the nearest to MuJoCo.
        time_limit: steps of an episode; 1,000 in gym.
        starts: first states that are made.

    Raises:
        ValueError: brax is not there or does not know the task, or a number is out of its range.

    Source: Freeman et al. 2021, Brax: a differentiable physics engine (arXiv:2106.13281).
    """
    try:
        from brax import envs
    except ImportError as error:
        raise ValueError("tasks of brax need the extra: pip install '.[brax]' in a clone") from error
    check_range("time_limit", time_limit, at_least=1)
    check_range("starts", starts, at_least=1)
    try:
        task = envs.get_environment(name, backend=backend)
    except KeyError as error:
        raise ValueError(f"brax has no task {name!r}; hopper, halfcheetah and walker2d are some that it has") from error
    first = jax.jit(jax.vmap(task.reset))(jax.random.split(jax.random.key(0), starts))

    def reset(key: Array) -> State:
        row = jax.random.randint(key, (), 0, starts)
        return jax.tree.map(lambda x: x[row], first)

    def step(key: Array, state: State, action: Array) -> tuple[State, Array, Array]:
        state = task.step(state, jnp.clip(action, -1, 1))
        return state, jnp.asarray(state.reward, jnp.float32), state.done > 0

    def observe(state: State) -> Array:
        return jnp.asarray(state.obs, jnp.float32)

    return Environment(name, reset, step, observe, task.observation_size, task.action_size, False, time_limit)
