import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
LOGPROBS, ADVANTAGES = RNG.normal(size=(3, 4)) - 2, RNG.normal(size=(3, 4))


def test_worked_numbers():
    values = losses.policy_gradient(jnp.array([-1.0, -2.0, -3.0]), jnp.array([3.0, -0.5, 0.0]))
    np.testing.assert_allclose(values, [3.0, -1.0, 0.0], rtol=1e-6)


def test_its_gradient_over_all_tokens_is_that_of_the_expected_reward():
    """Summed over every token the policy could sample, weighted by its probability: d/dlogits of -E[reward]."""
    logits, rewards = jnp.asarray(RNG.normal(size=5), jnp.float32), jnp.asarray(RNG.normal(size=5), jnp.float32)
    probs = jax.nn.softmax(logits)

    def expected_loss(logits):
        return jnp.sum(probs * losses.policy_gradient(jax.nn.log_softmax(logits), rewards))

    gradient = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * rewards))(logits)
    np.testing.assert_allclose(jax.grad(expected_loss)(logits), gradient, rtol=1e-4, atol=1e-7)


def test_it_is_what_the_clipped_surrogate_starts_with():
    old = jnp.asarray(LOGPROBS, jnp.float32)
    plain = jax.grad(lambda x: losses.policy_gradient(x, ADVANTAGES).sum())(old)
    clipped = jax.grad(lambda x: losses.clipped_surrogate(x, old, ADVANTAGES).sum())(old)
    np.testing.assert_allclose(plain, clipped, rtol=1e-6)
    np.testing.assert_allclose(plain, -ADVANTAGES, rtol=1e-6)


def test_gradient(check_gradient):
    check_gradient(losses.policy_gradient, LOGPROBS, ADVANTAGES)


def test_bfloat16_is_computed_in_float32():
    assert losses.policy_gradient(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32


def test_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.policy_gradient(LOGPROBS, ADVANTAGES[:, :1])
