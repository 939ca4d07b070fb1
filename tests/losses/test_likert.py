import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
SCORES, RATINGS = RNG.normal(size=(4, 3)), RNG.integers(1, 6, size=(4, 3))


def test_worked_numbers():
    np.testing.assert_allclose(losses.likert(0.5, 5.0, mean=3.0, std=2.0), 0.25, rtol=1e-6)  # (0.5 - 1)^2
    np.testing.assert_allclose(losses.likert(1.0, 3.0), 4.0, rtol=1e-6)  # standardised already


def test_nothing_to_pay_where_the_score_is_the_standardised_rating():
    mean, std = float(RATINGS.mean()), float(RATINGS.std())
    right = (RATINGS - mean) / std
    np.testing.assert_allclose(losses.likert(right, RATINGS, mean=mean, std=std), 0, atol=1e-12)


def test_the_unit_of_the_ratings_does_not_matter():
    stars = losses.likert(SCORES, RATINGS, mean=3.0, std=1.5)
    percent = losses.likert(SCORES, 20 * RATINGS, mean=60.0, std=30.0)
    np.testing.assert_allclose(stars, percent, rtol=1e-5)


def test_scores_that_say_the_same_of_all_cost_the_variance():
    mean, std = float(RATINGS.mean()), float(RATINGS.std())
    blind = losses.likert(np.zeros(RATINGS.shape), RATINGS, mean=mean, std=std)
    np.testing.assert_allclose(blind.mean(), 1, rtol=1e-6)


def test_whole_number_ratings_are_not_whole_number_arithmetic():
    np.testing.assert_allclose(
        losses.likert(SCORES, RATINGS, mean=3, std=2), losses.likert(SCORES, RATINGS.astype(float), mean=3.0, std=2.0)
    )
    assert losses.likert(jnp.asarray(SCORES, jnp.bfloat16), RATINGS).dtype == jnp.float32


def test_gradient(check_gradient):
    check_gradient(lambda s, r: losses.likert(s, r, mean=3.0, std=1.5), SCORES, RATINGS)


def test_the_pull_is_as_strong_as_the_error():
    np.testing.assert_allclose(jax.grad(lambda s: losses.likert(s, 5.0, mean=3.0, std=2.0))(0.25), -1.5, rtol=1e-6)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_nonsense_is_refused(std):
    with pytest.raises(ValueError, match="std must be above 0"):
        losses.likert(SCORES, RATINGS, std=std)


def test_ratings_of_another_shape_are_refused():
    with pytest.raises(AssertionError):
        losses.likert(SCORES, RATINGS[:, :1])
