"""Shaping, worked by hand; moments that do not depend on how scores were batched."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.rewards import ShapingConfig, add_to_moments, empty_moments, shape_rewards

OFF = {"normalise": False, "no_eos_penalty": 0.0}


def shape(scores, *, finished=True, lengths=1, moments=None, **config):
    scores = jnp.asarray(scores, jnp.float32)
    return np.asarray(
        shape_rewards(
            scores,
            jnp.broadcast_to(jnp.asarray(finished), scores.shape),
            jnp.broadcast_to(jnp.asarray(lengths), scores.shape),
            empty_moments() if moments is None else moments,
            ShapingConfig(**{**OFF, **config}),
        )
    )


def test_everything_off_gives_the_score():
    np.testing.assert_array_equal(shape([[3.0, -2.0]], clip=10.0), [[3.0, -2.0]])


def test_the_clip_holds_scores_on_both_sides():
    np.testing.assert_array_equal(shape([[3.0, -9.0, 0.5]], clip=2.0), [[2.0, -2.0, 0.5]])


def test_normalised_scores_are_in_standard_deviations_of_all_scores_seen():
    scores = jnp.array([[1.0, 3.0], [5.0, 7.0]])  # mean 4, variance 5
    moments = add_to_moments(empty_moments(), scores)
    got = shape(scores, moments=moments, normalise=True)
    np.testing.assert_allclose(got, (np.array([[1, 3], [5, 7]]) - 4) / np.sqrt(5), rtol=1e-6)
    # The clip is in those units: (9 - 4) / sqrt 5 = 2.24 is held at 2.
    np.testing.assert_allclose(shape([[9.0]], moments=moments, normalise=True, clip=2.0), [[2.0]])


def test_equal_scores_normalise_to_zero_not_to_infinity():
    moments = add_to_moments(empty_moments(), jnp.full((2, 2), 1.5))
    np.testing.assert_array_equal(shape(jnp.full((2, 2), 1.5), moments=moments, normalise=True), np.zeros((2, 2)))


def test_penalties_come_after_the_clip():
    got = shape(
        [[9.0, 9.0], [1.0, 1.0]],
        finished=[[True, False], [True, False]],
        lengths=[[4, 10], [0, 3]],
        clip=2.0,
        no_eos_penalty=1.5,
        length_penalty=0.25,
    )
    np.testing.assert_allclose(got, [[2 - 1.0, 2 - 1.5 - 2.5], [1.0, 1 - 1.5 - 0.75]])


def test_integer_scores_keep_what_is_subtracted_from_them():
    scores, finished = jnp.array([[1]]), jnp.array([[False]])
    got = shape_rewards(
        scores, finished, jnp.array([[1]]), empty_moments(), ShapingConfig(**{**OFF, "no_eos_penalty": 0.5})
    )
    assert got.dtype == jnp.float32
    assert float(got[0, 0]) == 0.5


@pytest.mark.parametrize("sizes", [(60,), (1, 59), (20, 20, 20), (7, 1, 31, 21)])
def test_moments_do_not_depend_on_the_batching(sizes):
    scores = np.random.default_rng(0).normal(loc=100.0, scale=2.0, size=60).astype(np.float32)
    moments = empty_moments()
    for part in np.split(scores, np.cumsum(sizes)[:-1]):
        moments = add_to_moments(moments, jnp.asarray(part))
    assert float(moments.seen) == 60
    np.testing.assert_allclose(float(moments.mean), scores.mean(), rtol=1e-6)
    np.testing.assert_allclose(float(moments.m2 / moments.seen), scores.var(), rtol=1e-4)


def test_moments_take_any_shape():
    a = add_to_moments(empty_moments(), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    b = add_to_moments(empty_moments(), jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert [float(x) for x in a] == [float(x) for x in b] == [4.0, 2.5, 5.0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clip": 0.0}, "clip must be positive"),
        ({"no_eos_penalty": -1.0}, "not be negative"),
        ({"length_penalty": -1.0}, "not"),
    ],
)
def test_settings_that_would_reward_the_unwanted_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        ShapingConfig(**wrong)
