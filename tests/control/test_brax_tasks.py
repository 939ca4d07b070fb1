"""Tasks of brax as environments: a body of its form in any session, and brax's own hopper where brax is installed."""

import importlib.util
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.control import advance, begin
from rlhf_jax.control.brax_tasks import from_brax


class Body(NamedTuple):
    """A state with brax's names: a point that is pushed, and falls over beyond 1."""

    obs: jax.Array
    reward: jax.Array
    done: jax.Array


class Point:
    observation_size, action_size = 1, 1

    def __init__(self, backend):
        self.backend = backend

    def reset(self, key):
        return Body(jax.random.uniform(key, (1,)) / 10, jnp.zeros(()), jnp.zeros(()))

    def step(self, state, action):
        place = state.obs + action
        return Body(place, action[0], jnp.where(jnp.abs(place[0]) > 1, 1.0, 0.0))


@pytest.fixture
def brax(monkeypatch):
    found = types.ModuleType("brax")
    found.envs = types.SimpleNamespace(get_environment=lambda name, backend: {"point": Point}[name](backend))
    monkeypatch.setitem(sys.modules, "brax", found)


def test_a_task_keeps_its_dynamics_and_its_ends(brax):
    environment = from_brax("point", time_limit=3)
    assert (environment.discrete, environment.observation_size, environment.action_size) == (False, 1, 1)
    episode = begin(environment, jax.random.key(0))
    start = float(environment.observe(episode.state)[0])
    seen = []
    for push in (0.5, 5.0):  # the second one is more than a body can
        episode, step = advance(environment, jax.random.key(1), episode, jnp.array([push]))
        seen.append((float(step.reward), float(step.after[0]), bool(step.terminated), bool(step.truncated)))
    np.testing.assert_allclose([each[:2] for each in seen], [(0.5, start + 0.5), (1.0, start + 1.5)], rtol=1e-5)
    assert [each[2:] for each in seen] == [(False, False), (True, False)]
    assert abs(float(environment.observe(episode.state)[0])) < 0.11


def test_time_is_up_at_the_limit(brax):
    environment = from_brax("point", time_limit=2)
    episode = begin(environment, jax.random.key(0))
    for _ in range(2):
        episode, step = advance(environment, jax.random.key(1), episode, jnp.zeros(1))
    assert (bool(step.terminated), bool(step.truncated), int(episode.time)) == (False, True, 0)


def test_episodes_begin_from_as_many_states_as_were_made(brax):
    environment = from_brax("point", starts=3)
    first = jax.vmap(lambda key: environment.observe(environment.reset(key)))(jax.random.split(jax.random.key(5), 100))
    assert len(np.unique(np.asarray(first))) == 3


def test_what_is_not_there_is_named(brax, monkeypatch):
    with pytest.raises(ValueError, match="brax has no task 'dragon'; hopper"):
        from_brax("dragon")
    with pytest.raises(ValueError, match="starts must be at least 1"):
        from_brax("point", starts=0)
    monkeypatch.setitem(sys.modules, "brax", None)
    with pytest.raises(ValueError, match=r"need the extra: pip install '\.\[brax\]'"):
        from_brax("point")


@pytest.mark.skipif(importlib.util.find_spec("brax") is None, reason="brax (extra `brax`) is not installed")
def test_the_hopper_hops_as_brax_says():
    from brax import envs

    with jax.numpy_rank_promotion("allow"):  # brax adds arrays of different ranks, which this session forbids
        environment, task = from_brax("hopper", starts=2), envs.get_environment("hopper", backend="spring")
        state = environment.reset(jax.random.key(0))
        ours, reward, terminated = jax.jit(environment.step)(jax.random.key(0), state, jnp.array([2.0, -0.5, 0.1]))
        theirs = jax.jit(task.step)(state, jnp.array([1.0, -0.5, 0.1]))
    np.testing.assert_allclose(environment.observe(ours), theirs.obs, rtol=1e-6)
    np.testing.assert_allclose(reward, theirs.reward, rtol=1e-6)
    assert bool(terminated) == bool(theirs.done)
