"""The whole alternation on the smallest environment: deterministic, within its labels, alike over seeds by vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import control

ACTING = control.AgentConfig(environments=4, steps=10, minibatches=2, epochs=2, hidden=(8,))
ASKING = control.PreferenceConfig(segment=5, hidden=(8,), candidates=2, first_updates=3, updates=2, batch=4)
TASK = control.Task(control.without_ends(control.line(), end_reward=-5), ACTING, ASKING, iterations=2, labels=12)


def measure(key, agent):
    return control.true_returns(key, control.line(time_limit=5), agent, 2)


RATE = functools.partial(control.synthetic_preferences, error_rate=0.0)


@functools.cache
def compiled():
    def run(key, schedule):
        learner, figures = control.from_preferences(key, TASK, RATE, schedule, at_once=(6, 4), measure=measure, every=1)
        return learner.said, figures

    return jax.jit(jax.vmap(run, (0, None)))


def program(keys, schedule):
    # The check takes the transposed keys of a scan under vmap for used ones; without vmap it finds nothing.
    with jax.debug_key_reuse(False):
        return compiled()(keys, schedule)


KEYS = jax.random.split(jax.random.key(0), 2)
SCHEDULE = jnp.asarray(control.label_schedule(10, 2, first_share=0.5))


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    one, other = program(KEYS, SCHEDULE), program(KEYS, SCHEDULE)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    said, figures = one
    assert not np.array_equal(said.first.rewards[0], said.first.rewards[1])
    assert figures["measured"].shape == (2, 2, 2)
    assert all(np.isfinite(x).all() for x in figures.values())
    assert (figures["ratio_gap"] < 1e-5).all()  # the policy that is trained is the one that acted


def test_as_many_labels_are_used_as_the_schedule_says():
    assert SCHEDULE.tolist() == [5, 4, 1]
    said, figures = program(KEYS, SCHEDULE)
    np.testing.assert_array_equal(figures["labels"], [[9, 10]] * 2)
    np.testing.assert_array_equal(said.number, [10, 10])
    assert (said.weights[:, 10:] == 0).all()
    _, none = program(KEYS, jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(none["labels"], 0)
    np.testing.assert_array_equal(none["reward_loss"], 0)


def test_measurements_part_the_iterations():
    with pytest.raises(ValueError, match="every must divide the 2 iterations, found 3"):
        control.from_preferences(jax.random.key(1), TASK, RATE, SCHEDULE, at_once=(6, 4), measure=measure, every=3)
    with pytest.raises(ValueError, match="every must divide"):
        control.from_true_reward(jax.random.key(2), TASK, measure=measure, every=3)


def test_a2c_uses_its_steps_once():
    with pytest.raises(ValueError, match="epochs and minibatches must be 1, found 4 and 4"):
        control.AgentConfig(method="a2c")
    with pytest.raises(ValueError, match="16 environments x 125 steps do not part into 3"):
        control.AgentConfig(minibatches=3)
