import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
CHOSEN, REJECTED = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
TIE = RNG.uniform(size=(4, 3)) < 0.5


def probabilities(chosen, rejected, theta):
    """That the first wins, that neither does, that the second wins."""
    won = losses.rao_kupper(chosen, rejected, tie=False, theta=theta)
    tied = losses.rao_kupper(chosen, rejected, tie=True, theta=theta)
    lost = losses.rao_kupper(rejected, chosen, tie=False, theta=theta)
    return np.exp(-np.stack([won, tied, lost]))


def test_worked_numbers():
    # With strengths exp(r) of 3 and 1 and theta 2: 3 / (3 + 2), 3 * 3 / (5 * 7), 1 / (1 + 6).
    np.testing.assert_allclose(probabilities(np.log(3.0), 0.0, 2.0), [3 / 5, 9 / 35, 1 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(0.0, 0.0, 2.0), [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("theta", [1.0, 1.001, 1.5, 5.0])
def test_the_three_outcomes_sum_to_one(theta):
    np.testing.assert_allclose(probabilities(CHOSEN, REJECTED, theta).sum(0), 1, rtol=1e-5)


def test_without_room_for_ties_it_is_bradley_terry():
    plain = losses.bradley_terry(CHOSEN, REJECTED)
    np.testing.assert_allclose(losses.rao_kupper(CHOSEN, REJECTED, tie=False, theta=1.0), plain, rtol=1e-6)
    assert losses.rao_kupper(1.0, 0.0, tie=True, theta=1.0) == np.inf


def test_a_tie_has_no_first_and_second_and_is_likeliest_between_equals():
    one_way, other_way = (losses.rao_kupper(*x, tie=True, theta=1.5) for x in ((CHOSEN, REJECTED), (REJECTED, CHOSEN)))
    np.testing.assert_allclose(one_way, other_way, rtol=1e-6)
    gradient = jax.grad(lambda r: losses.rao_kupper(r, 0.0, tie=True, theta=1.5))
    np.testing.assert_allclose(gradient(0.0), 0, atol=1e-7)
    assert gradient(1.0) > 0 > gradient(-1.0)


def test_theta_is_learned_from_the_share_of_ties():
    """Between equals P(tie) = (theta - 1) / (theta + 1), so that a third of ties is explained best by 2."""

    def loss(theta):
        return losses.rao_kupper(jnp.zeros(3), jnp.zeros(3), tie=jnp.array([True, False, False]), theta=theta).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(2.0), 0, atol=1e-6)


@pytest.mark.parametrize("gap", [1e3, -1e3])
@pytest.mark.parametrize("tie", [False, True])
def test_saturated_scores_stay_finite(gap, tie):
    value, gradient = jax.value_and_grad(lambda r: losses.rao_kupper(r, 0.0, tie=tie, theta=2.0))(gap)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)


def test_what_did_not_happen_has_no_part_in_the_gradient():
    """At theta 1 a tie has an infinite loss; where nobody tied, neither value nor gradient may know of it."""
    gradients = jax.grad(lambda r, t: losses.rao_kupper(r, 0.0, tie=False, theta=t), argnums=(0, 1))(0.0, 1.0)
    np.testing.assert_allclose(gradients, [-0.5, 0.5], rtol=1e-6)


def test_gradient(check_gradient):
    check_gradient(
        lambda w, r, theta: losses.rao_kupper(w, r, tie=TIE, theta=theta),
        CHOSEN,
        REJECTED,
        RNG.uniform(1.2, 3.0, size=CHOSEN.shape),
    )


def test_halves_are_computed_in_single_precision():
    halves = jnp.asarray(CHOSEN, jnp.bfloat16)
    assert losses.rao_kupper(halves, halves, tie=TIE, theta=2.0).dtype == jnp.float32


@pytest.mark.parametrize("theta", [0.9, -2.0, float("nan")])
def test_nonsense_is_refused(theta):
    with pytest.raises(ValueError, match="theta must be at least 1"):
        losses.rao_kupper(CHOSEN, REJECTED, tie=TIE, theta=theta)


def test_scores_of_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.rao_kupper(CHOSEN, REJECTED[:, :1], tie=False, theta=2.0)
