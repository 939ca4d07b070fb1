"""Episodes: a time limit, a restart after the end, and tasks whose end nobody is told of."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array, Environment, State, choose


class Episode(NamedTuple):
    """Where an episode stands.

    Args:
        state: the environment's.
        time: [], int32, steps since the episode began.

    Example:
        >>> from rlhf_jax.control import line
        >>> int(begin(line(), jax.random.key(0)).time)
        0
    """

    state: State
    time: Array


class Step(NamedTuple):
    """What one action led to.

    An episode that was cut off would have gone on, so its future has a value; one that terminated has none.

    Args:
        reward: [], float32, the environment's.
        terminated: [], bool, the task is over.
        truncated: [], bool, the task is not over, but time is up.
        after: [O], what was seen after the action, before any restart.

    Example:
        >>> step = Step(jnp.array(1.0), jnp.array(False), jnp.array(True), jnp.zeros(2))
        >>> bool(step.truncated)
        True
    """

    reward: Array
    terminated: Array
    truncated: Array
    after: Array


def begin(environment: Environment, key: Array) -> Episode:
    """Begin an episode.

    Args:
        environment: the task.
        key: draws the start.

    Example:
        >>> from rlhf_jax.control import line
        >>> begin(line(), jax.random.key(0)).state.shape
        (2,)
    """
    return Episode(environment.reset(key), jnp.zeros((), jnp.int32))


def advance(environment: Environment, key: Array, episode: Episode, action: Array) -> tuple[Episode, Step]:
    """Take one action, and begin again where the episode has ended.

    Args:
        environment: the task.
        key: draws what is random in the step and in a restart.
        episode: where it stands.
        action: the environment's.

    Returns:
        Where the episode, or the next one, stands now; and what the action led to.

    Example:
        >>> from rlhf_jax.control import line
        >>> environment = line(time_limit=1)
        >>> episode, step = advance(environment, jax.random.key(0), begin(environment, jax.random.key(1)), jnp.array(1))
        >>> int(episode.time), bool(step.terminated), bool(step.truncated)
        (0, False, True)
    """
    for_step, for_restart = jax.random.split(key)
    state, reward, terminated = environment.step(for_step, episode.state, action)
    time = episode.time + 1
    truncated = ~terminated & (time >= environment.time_limit)
    going_on = Episode(state, time)
    step = Step(jnp.asarray(reward, jnp.float32), terminated, truncated, environment.observe(state))
    return choose(terminated | truncated, begin(environment, for_restart), going_on), step


def without_ends(environment: Environment, *, end_reward: float) -> Environment:
    """Hide the ends of a task: it starts again at once, at a price or for a prize, and nobody is told.

    When an episode ends gives the true reward away: who is told of it needs no preference to learn that a pole must
    not fall. Here all episodes last ``time_limit`` steps, and what an end is worth is part of the true reward, which
    raters see and the policy does not.

    Args:
        environment: the task.
        end_reward: added to the true reward of a step that ends the task: negative where an end is a failure (a pole
            that fell), positive where it is the goal.

    Returns:
        An environment that never terminates.

    Example:
        >>> from rlhf_jax.control import line
        >>> environment = without_ends(line(limit=0.5), end_reward=-10)
        >>> fallen = jnp.array([0.5, 1.0])  # on its way out
        >>> state, reward, terminated = environment.step(jax.random.key(0), fallen, jnp.array(1))
        >>> bool(terminated), bool(jnp.abs(state[0]) < 0.5), bool(reward < -9)
        (False, True, True)

    Source: Christiano et al. 2017, appendix A (arXiv:1706.03741).
    """

    def step(key: Array, state: State, action: Array) -> tuple[State, Array, Array]:
        for_step, for_restart = jax.random.split(key)
        state, reward, terminated = environment.step(for_step, state, action)
        state = choose(terminated, environment.reset(for_restart), state)
        return state, reward + jnp.where(terminated, end_reward, 0.0), jnp.zeros((), bool)

    return environment._replace(step=step)
