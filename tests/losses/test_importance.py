import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
weights_of, size_of = losses.truncated_importance_weights, losses.effective_sample_size


def test_worked_weights():
    new, old = np.log([0.5, 0.1, 0.9, 0.6]), np.log([0.5, 0.4, 0.1, 0.2])
    np.testing.assert_allclose(weights_of(new, old), [1.0, 0.25, 2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(weights_of(new, old, cap=5.0), [1.0, 0.25, 5.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(weights_of(new, old, cap=1.0), [1.0, 0.25, 1.0, 1.0], rtol=1e-6)


def test_a_cap_for_each_response():
    new, old = np.log([[0.8, 0.2], [0.8, 0.2]]), np.log([[0.2, 0.2], [0.2, 0.2]])
    np.testing.assert_allclose(weights_of(new, old, cap=jnp.array([[2.0], [3.0]])), [[2.0, 1.0], [3.0, 1.0]], rtol=1e-6)


def test_where_both_policies_agree_the_weight_is_exactly_1():
    logprobs = RNG.normal(size=(3, 4)) - 2
    assert (weights_of(logprobs, logprobs) == 1.0).all()
    assert size_of(weights_of(logprobs, logprobs), np.ones((3, 4), bool)) == 1.0


def test_without_a_cap_the_older_policys_samples_give_the_newer_ones_mean():
    """``E_mu[pi / mu f] = E_pi[f]``, exactly, summed over every outcome."""
    new, old = (jax.nn.log_softmax(RNG.normal(size=8)) for _ in range(2))
    value = RNG.normal(size=8)
    estimate = jnp.sum(jnp.exp(old) * weights_of(new, old, cap=math.inf) * value)
    np.testing.assert_allclose(estimate, jnp.sum(jnp.exp(new) * value), rtol=1e-5)
    capped = jnp.sum(jnp.exp(old) * weights_of(new, old, cap=1.0))
    np.testing.assert_allclose(capped, jnp.minimum(jnp.exp(old), jnp.exp(new)).sum(), rtol=1e-5)  # less than 1: a bias


def test_no_gradient_flows_into_a_weight():
    """The gradient of the weighted policy gradient is the weight times the plain one."""
    old, advantages = RNG.normal(size=5) - 2, RNG.normal(size=5)
    new = jnp.asarray(old + 0.3 * RNG.normal(size=5), jnp.float32)

    def weighted(x, older):
        return jnp.sum(weights_of(x, older) * losses.policy_gradient(x, advantages))

    by_new, by_old = jax.grad(weighted, argnums=(0, 1))(new, jnp.asarray(old, jnp.float32))
    np.testing.assert_allclose(by_new, -weights_of(new, old) * advantages, rtol=1e-6)
    assert not by_old.any()


@pytest.mark.parametrize("gap", [100.0, 1e4, -1e4, math.inf, -math.inf])
def test_a_ratio_beyond_float32_stays_within_the_cap(gap):
    assert weights_of(jnp.array([gap]), jnp.zeros(1)).tolist() == [2.0 if gap > 0 else 0.0]
    assert jnp.isfinite(weights_of(jnp.array([gap]), jnp.zeros(1), cap=math.inf)).all()


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_a_cap_that_is_none_is_refused(cap):
    with pytest.raises(ValueError, match="cap must be above 0"):
        weights_of(jnp.zeros(2), jnp.zeros(2), cap=cap)


def test_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        weights_of(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(AssertionError):
        size_of(jnp.zeros(2), jnp.ones(3, bool))


def test_worked_sizes():
    mask = np.array([[True, True], [True, False]])
    assert float(size_of([[3.0, 1.0], [0.0, 7.0]], mask)) == pytest.approx(16 / (3 * 10))
    assert float(size_of([[0.0, 5.0], [0.0, 7.0]], mask)) == pytest.approx(1 / 3)  # one entry has all the weight
    assert float(size_of([[0.0, 0.0], [0.0, 7.0]], mask)) == 0.0
    assert float(size_of([[1.0, 1.0], [1.0, 1.0]], np.zeros_like(mask))) == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_size_does_not_depend_on_the_scale_and_is_that_of_the_sliced_entries(scale):
    weights, mask = RNG.uniform(0, 2, size=(5, 6)), RNG.random((5, 6)) < 0.7
    kept = weights[mask]
    want = kept.sum() ** 2 / (len(kept) * (kept**2).sum())
    poisoned = np.where(mask, weights * scale, np.inf)
    np.testing.assert_allclose(size_of(poisoned, mask), want, rtol=1e-5)
    assert 1 / len(kept) < want < 1
