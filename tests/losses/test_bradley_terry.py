import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
CHOSEN, REJECTED, SHARE = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)), RNG.uniform(size=(4, 3))


def test_worked_numbers():
    np.testing.assert_allclose(losses.bradley_terry(0.0, 0.0), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.bradley_terry(np.log(3.0), 0.0), np.log(4 / 3), rtol=1e-6)  # P = 3/4
    soft = 0.6 * np.log(4 / 3) + 0.4 * np.log(4)
    np.testing.assert_allclose(losses.bradley_terry(np.log(3.0), 0.0, preference=0.6), soft, rtol=1e-6)
    np.testing.assert_allclose(losses.bradley_terry(np.log(3.0) + 1, 0.0, margin=1.0), np.log(4 / 3), rtol=1e-6)
    centred = losses.bradley_terry(3.0, 1.0, center=0.5) - losses.bradley_terry(3.0, 1.0)
    np.testing.assert_allclose(centred, 8.0, rtol=1e-6)  # 0.5 (3 + 1)^2


def test_against_optax():
    reference = optax.sigmoid_binary_cross_entropy(jnp.asarray(CHOSEN - REJECTED), jnp.asarray(SHARE))
    np.testing.assert_allclose(losses.bradley_terry(CHOSEN, REJECTED, preference=SHARE), reference, rtol=1e-5)


def test_naming_the_pair_the_other_way_round_changes_nothing():
    one_way = losses.bradley_terry(CHOSEN, REJECTED, preference=SHARE, margin=0.3, center=0.1)
    other_way = losses.bradley_terry(REJECTED, CHOSEN, preference=1 - SHARE, margin=-0.3, center=0.1)
    np.testing.assert_allclose(one_way, other_way, rtol=1e-5)


def test_a_soft_label_is_that_share_of_hard_ones():
    hard = losses.bradley_terry(CHOSEN, REJECTED), losses.bradley_terry(REJECTED, CHOSEN)
    mixed = SHARE * hard[0] + (1 - SHARE) * hard[1]
    np.testing.assert_allclose(losses.bradley_terry(CHOSEN, REJECTED, preference=SHARE), mixed, rtol=1e-5)


def test_least_where_the_predicted_share_is_the_given_one():
    gradient = jax.grad(lambda d: losses.bradley_terry(d, 0.0, preference=0.75))(np.log(3.0))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_only_the_centring_term_sees_a_common_shift():
    plain = losses.bradley_terry(CHOSEN, REJECTED), losses.bradley_terry(CHOSEN + 8, REJECTED + 8)
    np.testing.assert_allclose(*plain, rtol=1e-5)
    centred = [losses.bradley_terry(CHOSEN + c, REJECTED + c, center=0.01).mean() for c in (0, 8)]
    assert centred[1] > centred[0] + 1


@pytest.mark.parametrize("gap", [1e3, -1e3])
@pytest.mark.parametrize("preference", [0.0, 0.5, 1.0])
def test_saturated_scores_stay_finite(gap, preference):
    value, gradient = jax.value_and_grad(lambda r: losses.bradley_terry(r, 0.0, preference=preference))(gap)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)


def test_gradient(check_gradient):
    check_gradient(
        lambda w, r, p, m: losses.bradley_terry(w, r, preference=p, margin=m, center=0.1),
        CHOSEN,
        REJECTED,
        SHARE,
        np.full_like(SHARE, 0.2),
    )


@pytest.mark.parametrize("bad", [{"preference": 1.5}, {"preference": -0.5}, {"center": -0.1}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        losses.bradley_terry(CHOSEN, REJECTED, **bad)


def test_scores_of_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.bradley_terry(CHOSEN, REJECTED[:, :1])
