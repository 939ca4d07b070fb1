"""Tasks of gymnax (extra ``control``): CartPole, Acrobot, MountainCar, Pendulum and others, as they are there."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array, Environment, State


def from_gymnax(name: str) -> Environment:
    """Make an environment from a task of gymnax, with its dynamics, rewards, ends and time limit.

    Args:
        name: gymnax's, such as ``CartPole-v1``. Numbers of a continuous action go from -1 to 1, and are stretched to
            the task's range.

    Raises:
        ValueError: gymnax is not there, does not know the name, or the task is not seen as a row of numbers.

    Source: Lange 2022, gymnax: a JAX-based reinforcement learning environment library.
    """
    try:
        import gymnax
    except ImportError as error:
        raise ValueError("tasks of gymnax need the extra: pip install '.[control]' in a clone") from error
    if name not in gymnax.registered_envs:
        raise ValueError(f"gymnax has no task {name!r}; it has {', '.join(sorted(gymnax.registered_envs))}")
    task, params = gymnax.make(name)
    seen, acts = task.observation_space(params).shape, task.action_space(params)
    if len(seen) != 1:
        raise ValueError(f"an observation of {name} has the shape {seen}; only rows of numbers can be learnt from here")
    discrete = hasattr(acts, "n")
    size = acts.n if discrete else acts.shape[0]

    def step(key: Array, state: State, action: Array) -> tuple[State, Array, Array]:
        if not discrete:
            low, high = jnp.broadcast_to(acts.low, acts.shape), jnp.broadcast_to(acts.high, acts.shape)
            action = low + (jnp.clip(action, -1, 1) + 1) / 2 * (high - low)
        _, state, reward, terminated, _ = task.step_env(key, state, action, params)
        # Some tasks give whole numbers or shapes of [1]; a scan wants one type.
        return state, jnp.asarray(reward, jnp.float32).reshape(()), jnp.asarray(terminated, bool).reshape(())

    def reset(key: Array) -> State:
        _, state = task.reset_env(key, params)
        return _typed(step, key, state, size, discrete)

    def observe(state: State) -> Array:
        return jnp.asarray(task.get_obs(state, params=params), jnp.float32)

    return Environment(name, reset, step, observe, seen[0], size, discrete, int(params.max_steps_in_episode))


def _typed(step, key: Array, state: State, size: int, discrete: bool) -> State:
    """Give a first state the types of a later one: gymnax begins with Python numbers, which a scan refuses."""
    action = jnp.zeros((), jnp.int32) if discrete else jnp.zeros(size)
    later, _, _ = jax.eval_shape(step, key, state, action)
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype).reshape(like.shape), state, later)
