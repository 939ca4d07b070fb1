import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlhf_jax import losses

RNG = np.random.default_rng(0)
LOGITS, REF_LOGITS = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6))


def every_token(logits):
    """Log-probabilities of all tokens, as if each had been sampled once: [T, V]."""
    return jnp.asarray(special.log_softmax(logits, axis=-1))


def test_worked_numbers():
    assert losses.k1(-1.0, -3.0) == 2.0
    assert losses.k2(-1.0, -3.0) == 2.0
    np.testing.assert_allclose(losses.k3(-1.0, -3.0), np.exp(-2) + 1, rtol=1e-6)
    half, quarter = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(losses.full_kl(half, quarter), 0.5 * np.log(4 / 3), rtol=1e-6)


def test_the_exact_kl_against_scipy():
    reference = stats.entropy(special.softmax(LOGITS, -1), special.softmax(REF_LOGITS, -1), axis=-1)
    np.testing.assert_allclose(losses.full_kl(LOGITS, REF_LOGITS), reference, rtol=1e-5)


@pytest.mark.parametrize("estimator", [losses.k1, losses.k3])
def test_unbiased_under_the_policy(estimator):
    logprobs, ref_logprobs = every_token(LOGITS), every_token(REF_LOGITS)
    expectation = (jnp.exp(logprobs) * estimator(logprobs, ref_logprobs)).sum(-1)
    np.testing.assert_allclose(expectation, losses.full_kl(LOGITS, REF_LOGITS), rtol=1e-5)


def test_k2_is_biased_but_right_for_small_steps():
    near = LOGITS + 0.01 * REF_LOGITS
    logprobs, ref_logprobs = every_token(LOGITS), every_token(near)
    expectation = (jnp.exp(logprobs) * losses.k2(logprobs, ref_logprobs)).sum(-1)
    with jax.enable_x64(True):
        exact = losses.full_kl(LOGITS, near)
    np.testing.assert_allclose(expectation, exact, rtol=0.05)


@pytest.mark.parametrize("estimator", [losses.k2, losses.k3])
def test_never_negative_and_zero_only_at_equality(estimator):
    log_ratio = jnp.arange(-50, 51) / 10
    estimates = estimator(log_ratio, jnp.zeros_like(log_ratio))
    assert (estimates >= 0).all()
    assert estimates[50] == 0
    assert (jnp.delete(estimates, 50) > 0).all()


def test_identical_distributions_have_no_kl():
    np.testing.assert_array_equal(losses.full_kl(LOGITS, LOGITS), 0)


def test_excluded_tokens():
    both = jnp.array([0.0, 0.0, -jnp.inf])
    one = jnp.array([0.0, 1.0, 2.0])
    assert losses.full_kl(both, both) == 0.0
    assert jnp.isfinite(losses.full_kl(both, one))
    assert jnp.isfinite(jax.grad(losses.full_kl)(both, one)).all()
    assert jnp.isfinite(jax.grad(losses.full_kl)(both, both)).all()
    assert losses.full_kl(one, both) == jnp.inf


@pytest.mark.parametrize("estimator", [losses.k1, losses.k2, losses.k3, losses.full_kl])
def test_gradients(estimator, check_gradient):
    check_gradient(estimator, LOGITS, REF_LOGITS)


@pytest.mark.parametrize("estimator", [losses.k1, losses.k2, losses.k3, losses.full_kl])
def test_different_shapes_are_refused(estimator):
    with pytest.raises(AssertionError):
        estimator(LOGITS, REF_LOGITS[:, :1])


# Rewards: row 0 has a prompt, a hole and padding; row 1 is full; row 2 is empty.
MASK = np.array([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
LOGPROBS, REF_LOGPROBS = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
SCORES = np.array([2.0, -1.0, 5.0])


def test_rewards_worked():
    rewards = losses.kl_penalised_rewards(
        jnp.array([3.0]), jnp.array([[-1.0, -2.0]]), jnp.array([[-2.0, -1.0]]), jnp.array([[1, 1]]), kl_coef=0.5
    )
    assert rewards.tolist() == [[-0.5, 3.5]]


@pytest.mark.parametrize("estimator", [losses.k1, losses.k2, losses.k3])
def test_rewards_add_up_to_score_less_kl_and_the_last_token_gets_the_score(estimator):
    rewards = losses.kl_penalised_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.1, estimator=estimator)
    kl = np.where(MASK, estimator(LOGPROBS, REF_LOGPROBS), 0)
    np.testing.assert_allclose(rewards.sum(-1), np.where(MASK.any(-1), SCORES, 0) - 0.1 * kl.sum(-1), rtol=1e-5)
    assert not rewards[~MASK].any()
    np.testing.assert_allclose(rewards[0, 3], 2.0 - 0.1 * kl[0, 3], rtol=1e-6)  # last counted, not the last column
    np.testing.assert_allclose(rewards[1, 4], -1.0 - 0.1 * kl[1, 4], rtol=1e-6)


def test_rewards_masked_is_sliced():
    whole = losses.kl_penalised_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.1)
    for row in range(3):
        keep = MASK[row]
        sliced = losses.kl_penalised_rewards(
            SCORES[row], LOGPROBS[row, keep], REF_LOGPROBS[row, keep], MASK[row, keep], kl_coef=0.1
        )
        np.testing.assert_array_equal(whole[row, keep], sliced)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_rewards_behind_the_mask_nothing_matters(poison):
    def total(scores, logprobs, ref_logprobs):
        rewards = losses.kl_penalised_rewards(scores, logprobs, ref_logprobs, MASK, kl_coef=0.1, estimator=losses.k3)
        return jnp.square(rewards).sum()

    clean = SCORES, LOGPROBS, REF_LOGPROBS
    poisoned = [np.where(m, x, poison) for m, x in zip((MASK.any(-1), MASK, MASK), clean, strict=True)]
    value_and_gradient = jax.value_and_grad(total, argnums=(0, 1, 2))
    jax.tree.map(
        np.testing.assert_array_equal,
        value_and_gradient(*map(jnp.asarray, poisoned)),
        value_and_gradient(*map(jnp.asarray, clean)),
    )


def test_rewards_take_a_traced_coefficient_and_any_leading_shape():
    rewards = jax.jit(lambda beta: losses.kl_penalised_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=beta))
    flat = rewards(jnp.array(0.1))
    deep = losses.kl_penalised_rewards(
        SCORES[None, :, None], LOGPROBS[None, :, None], REF_LOGPROBS[None, :, None], MASK[None, :, None], kl_coef=0.1
    )
    np.testing.assert_allclose(deep[0, :, 0], flat, rtol=1e-6)


def test_rewards_gradient(check_gradient):
    check_gradient(
        lambda s, x, y: losses.kl_penalised_rewards(s, x, y, MASK, kl_coef=0.1, estimator=losses.k3),
        SCORES,
        LOGPROBS,
        REF_LOGPROBS,
    )


def test_rewards_refuse_one_score_a_token():
    with pytest.raises(AssertionError):
        losses.kl_penalised_rewards(LOGPROBS, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.1)
