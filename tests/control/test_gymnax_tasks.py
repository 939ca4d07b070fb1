"""Tasks of gymnax behind our functions do what gymnax does, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import control

gymnax = pytest.importorskip("gymnax", reason="the extra control is not installed")


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1"])
def test_a_task_is_gymnax_s(name):
    task, params = gymnax.make(name)
    environment = control.from_gymnax(name)
    actions = jax.random.randint(jax.random.key(3), (12,), 0, environment.action_size)
    if not environment.discrete:
        actions = jax.random.uniform(jax.random.key(3), (12, environment.action_size), minval=-1, maxval=1)

    def ours(state, action):
        state, reward, terminated = environment.step(jax.random.wrap_key_data(bits), state, action)
        return state, (environment.observe(state), reward, terminated)

    def theirs(state, action):
        action = action if environment.discrete else action * params.max_torque
        seen, state, reward, terminated, _ = task.step_env(jax.random.wrap_key_data(bits), state, action, params)
        return state, (seen, jnp.asarray(reward, jnp.float32), terminated)

    bits = jax.random.key_data(jax.random.key(7))
    state = environment.reset(jax.random.wrap_key_data(bits))
    _, first = task.reset_env(jax.random.wrap_key_data(bits), params)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(first), strict=True):
        np.testing.assert_array_equal(a, b)
    _, found = jax.jit(lambda s: jax.lax.scan(ours, s, actions))(state)
    _, wanted = jax.jit(lambda s: jax.lax.scan(theirs, s, actions))(state)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert environment.time_limit == params.max_steps_in_episode
    assert environment.observe(state).shape == (environment.observation_size,)


def test_a_task_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"gymnax has no task 'CartPole-v9'; it has .*CartPole-v1"):
        control.from_gymnax("CartPole-v9")
    with pytest.raises(ValueError, match="only rows of numbers"):
        control.from_gymnax("Breakout-MinAtar")
