import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
REWARDS = 3 * RNG.normal(size=(4, 5))
PRESENT = np.ones((4, 5), bool)
PRESENT[1, [0, 3]] = PRESENT[2, 1:] = PRESENT[3] = False
OLD = RNG.normal(size=(3, 4)) - 2
LOGPROBS = OLD + 0.4 * RNG.normal(size=(3, 4))
MASK = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)


def plain_grpo(rewards, **options):
    return losses.grpo_advantages(rewards, normalise_std=False, **options)


ALL = pytest.mark.parametrize("advantages", [losses.rloo_advantages, losses.grpo_advantages, plain_grpo])


def test_worked_numbers():
    rewards = jnp.array([1.0, 2.0, 6.0])
    np.testing.assert_allclose(losses.rloo_advantages(rewards), [1 - 4, 2 - 3.5, 6 - 1.5], rtol=1e-6)
    np.testing.assert_allclose(plain_grpo(rewards), [-2, -1, 3], rtol=1e-6)
    std = np.sqrt((4 + 1 + 9) / 2)  # of a sample
    np.testing.assert_allclose(losses.grpo_advantages(rewards), np.array([-2, -1, 3]) / (std + 1e-4), rtol=1e-6)


def test_with_two_responses_rloo_is_their_difference():
    rewards = REWARDS[:, :2]
    difference = rewards[:, 0] - rewards[:, 1]
    np.testing.assert_allclose(losses.rloo_advantages(rewards), np.stack([difference, -difference], 1), rtol=1e-5)


def test_rloo_is_the_distance_from_the_mean_with_k_over_k_minus_1():
    expected = 5 / 4 * (REWARDS - REWARDS.mean(-1, keepdims=True))
    np.testing.assert_allclose(losses.rloo_advantages(REWARDS), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(5 / 4 * plain_grpo(REWARDS), expected, rtol=1e-5, atol=1e-6)


def test_rloo_leaves_the_policy_gradient_unbiased_and_the_mean_of_all_shrinks_it():
    """Summed over all ways to draw K = 3 of 4 responses, so nothing is left to chance."""
    logits, reward = np.array([0.3, -1.0, 0.8, 0.1]), np.array([2.0, -1.0, 0.5, 4.0])
    probs = np.exp(logits) / np.exp(logits).sum()
    score = np.eye(4) - probs  # d log p(y) / d logits
    truth = probs * (reward - probs @ reward)  # d E[reward] / d logits
    draws = np.array(list(itertools.product(range(4), repeat=3)))
    weights = probs[draws].prod(-1)
    for advantages, share in ((losses.rloo_advantages, 1), (plain_grpo, 2 / 3)):
        estimates = (np.asarray(advantages(reward[draws]))[..., None] * score[draws]).mean(1)
        np.testing.assert_allclose(weights @ estimates, share * truth, rtol=1e-4, atol=1e-6)


def test_grpo_divides_by_the_sample_std():
    expected = (REWARDS - REWARDS.mean(-1, keepdims=True)) / (REWARDS.std(-1, keepdims=True, ddof=1) + 1e-4)
    np.testing.assert_allclose(losses.grpo_advantages(REWARDS), expected, rtol=1e-4, atol=1e-6)


@ALL
@pytest.mark.parametrize("reward", [0.0, 0.1, -1000.3, 1e6])
def test_equal_rewards_are_exactly_0(advantages, reward):
    rewards = np.full((2, 7), reward, np.float32)
    value, gradient = jax.value_and_grad(lambda r: advantages(r).sum())(rewards)
    assert value == 0
    assert not advantages(rewards).any()
    assert np.isfinite(gradient).all()


@ALL
def test_only_differences_count(advantages):
    np.testing.assert_allclose(advantages(REWARDS + 50.0), advantages(REWARDS), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(advantages(REWARDS).sum(-1), 0, atol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int8, bool, jnp.bfloat16])
def test_other_number_types_are_not_truncated(advantages, dtype):
    rewards = jnp.array([[1, 0, 0], [1, 1, 0]], dtype)
    got = advantages(rewards)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, advantages(rewards.astype(jnp.float32)), rtol=1e-6)
    assert np.unique(np.abs(got)).size > 1


@ALL
def test_masked_is_sliced(advantages):
    got = advantages(REWARDS, mask=PRESENT)
    np.testing.assert_allclose(got[0], advantages(REWARDS[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1][PRESENT[1]], advantages(REWARDS[1][PRESENT[1]]), rtol=1e-5, atol=1e-6)
    assert not got[~PRESENT].any()
    assert not got[2].any(), "alone in its group, a response has nobody to be compared with"


@ALL
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(advantages, poison):
    weights = RNG.normal(size=REWARDS.shape)

    def value_and_gradient(rewards):
        return jax.value_and_grad(lambda r: (weights * advantages(r, mask=PRESENT)).sum())(rewards)

    poisoned, clean = jnp.where(PRESENT, REWARDS, poison), jnp.asarray(REWARDS, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(poisoned), value_and_gradient(clean))


@ALL
def test_gradient_of_advantages(advantages, check_gradient):
    check_gradient(advantages, REWARDS)
    check_gradient(lambda r: advantages(r, mask=PRESENT), REWARDS)


@pytest.mark.parametrize(("advantages", "name"), [(losses.rloo_advantages, "RLOO"), (losses.grpo_advantages, "GRPO")])
@pytest.mark.parametrize("rewards", [np.ones((3, 1)), np.ones((3, 0)), np.float32(1.0)])
def test_a_single_response_is_refused(advantages, name, rewards):
    with pytest.raises(ValueError, match=rf"{name} .* K must be at least 2, found {min(rewards.size, 1)}"):
        advantages(rewards)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        losses.rloo_advantages(REWARDS, mask=PRESENT[:1])


def test_gspo_ratio_is_the_geometric_mean_of_the_token_ratios():
    ratios = np.exp(LOGPROBS - OLD)
    expected = [ratios[0][MASK[0]].prod() ** (1 / 3), ratios[1, 1], 1.0]
    np.testing.assert_allclose(losses.gspo_ratio(LOGPROBS, OLD, MASK), expected, rtol=1e-5)
    assert (losses.gspo_ratio(OLD, OLD, MASK) == 1).all()


def test_gspo_ratio_moves_by_a_share_of_every_token():
    gradient = jax.grad(lambda x: losses.gspo_ratio(x, OLD, MASK).sum())(jnp.asarray(LOGPROBS, jnp.float32))
    ratio = np.asarray(losses.gspo_ratio(LOGPROBS, OLD, MASK))
    np.testing.assert_allclose(gradient, ratio[:, None] * MASK / np.maximum(MASK.sum(-1, keepdims=True), 1), rtol=1e-5)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_gspo_ratio_does_not_look_behind_the_mask(poison):
    def value_and_gradient(logprobs, old):
        return jax.value_and_grad(lambda x: losses.gspo_ratio(x, old, MASK).sum())(logprobs)

    clean = (jnp.asarray(LOGPROBS, jnp.float32), jnp.asarray(OLD, jnp.float32))
    poisoned = (jnp.where(MASK, x, poison) for x in clean)
    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(*poisoned), value_and_gradient(*clean))


def test_a_gspo_ratio_beyond_float32_stays_finite():
    ratio, gradient = jax.value_and_grad(losses.gspo_ratio)(jnp.array([500.0]), jnp.array([0.0]), jnp.array([True]))
    np.testing.assert_allclose(ratio, np.exp(80.0), rtol=1e-4)
    assert gradient == 0


def test_gradient_of_the_gspo_ratio(check_gradient):
    check_gradient(lambda new, old: losses.gspo_ratio(new, old, MASK), LOGPROBS, OLD)


def test_best_of_n_kl():
    assert losses.best_of_n_kl(1) == 0
    np.testing.assert_allclose(losses.best_of_n_kl(4), np.log(4) - 0.75, rtol=1e-6)
    np.testing.assert_allclose(losses.best_of_n_kl(np.array([1, 2, 64])), [0, 0.193147, 3.174508], rtol=1e-5)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_kl_against_the_distribution_of_the_best(n):
    """Of M equally likely responses, the i-th best wins with probability (i/M)^n - ((i-1)/M)^n."""

    def exact(count):
        best = np.diff(np.linspace(0, 1, count + 1) ** n)
        return np.sum(best * np.log(best * count))

    np.testing.assert_allclose(losses.best_of_n_kl(n), exact(100_000), rtol=1e-3)
    assert exact(2) < losses.best_of_n_kl(n), "with few different responses the formula is an upper bound"


@pytest.mark.parametrize("n", [0, -1, 0.5])
def test_best_of_less_than_one_is_refused(n):
    with pytest.raises(ValueError, match="n must be at least 1"):
        losses.best_of_n_kl(n)
