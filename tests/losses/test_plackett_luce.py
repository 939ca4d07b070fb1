import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(5, 4))
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool)


def test_worked_numbers():
    strengths = np.log([3.0, 2.0, 1.0])  # 3/6, then 2/3, then 1
    np.testing.assert_allclose(losses.plackett_luce(strengths), np.log(3), rtol=1e-6)
    np.testing.assert_allclose(losses.plackett_luce(strengths[::-1]), np.log(6 * 5 / 2), rtol=1e-6)
    np.testing.assert_allclose(losses.plackett_luce(np.zeros(4)), np.log(24), rtol=1e-6)


def test_all_orders_together_are_certain():
    orders = np.array(list(itertools.permutations(range(4))))
    np.testing.assert_allclose(np.exp(-losses.plackett_luce(SCORES[:, orders])).sum(-1), 1, rtol=1e-5)


def test_two_responses_are_bradley_terry():
    pair = losses.bradley_terry(SCORES[:, 0], SCORES[:, 1])
    np.testing.assert_allclose(losses.plackett_luce(SCORES[:, :2]), pair, rtol=1e-6)


def test_a_common_shift_changes_nothing():
    np.testing.assert_allclose(losses.plackett_luce(SCORES + 8), losses.plackett_luce(SCORES), rtol=1e-5)


@pytest.mark.parametrize("left_behind", [0.0, np.nan, np.inf, 1e9])
def test_missing_responses_are_as_if_they_were_cut_out(left_behind):
    def loss(scores, mask=None):
        return losses.plackett_luce(scores, mask=mask).sum()

    holes = jnp.asarray(np.where(MASK, SCORES, left_behind), jnp.float32)
    values = losses.plackett_luce(holes, mask=MASK)
    gradients = jax.grad(loss)(holes, MASK)
    for row, there, value, gradient in zip(SCORES, MASK, values, gradients, strict=True):
        kept = jnp.asarray(row[there], jnp.float32)
        np.testing.assert_allclose(value, losses.plackett_luce(kept) if there.any() else 0, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(gradient[there], jax.grad(loss)(kept), rtol=1e-5, atol=1e-7)
        assert not gradient[~there].any()


@pytest.mark.parametrize("scores", [[1e3, 0.0, -1e3], [-1e3, 0.0, 1e3], [1e4, 1e4, 1e4]])
def test_saturated_scores_stay_finite(scores):
    value, gradient = jax.value_and_grad(losses.plackett_luce)(jnp.array(scores))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_least_certain_where_all_are_equal_and_pulled_apart_from_there():
    gradient = jax.grad(losses.plackett_luce)(jnp.zeros(3))
    np.testing.assert_allclose(gradient, [-1 + 1 / 3, -1 + 1 / 3 + 1 / 2, 1 / 3 + 1 / 2], atol=1e-6)


def test_gradient(check_gradient):
    check_gradient(losses.plackett_luce, SCORES)
    check_gradient(lambda x: losses.plackett_luce(x, mask=MASK), SCORES)


def test_halves_are_computed_in_single_precision():
    assert losses.plackett_luce(jnp.asarray(SCORES, jnp.bfloat16)).dtype == jnp.float32


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        losses.plackett_luce(SCORES, mask=MASK[:, :3])
