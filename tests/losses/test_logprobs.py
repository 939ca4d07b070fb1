import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlhf_jax import losses

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5)) * 3
TARGETS = np.array([[0, 4, 2], [1, 1, 3]])


def test_worked_numbers():
    logits = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(losses.token_logprobs(logits, jnp.array(2)), np.log(0.5), rtol=1e-6)
    expected = -(0.2 * np.log(0.2) + 0.3 * np.log(0.3) + 0.5 * np.log(0.5))
    np.testing.assert_allclose(losses.entropy(logits), expected, rtol=1e-6)


def test_against_scipy():
    reference = np.take_along_axis(special.log_softmax(LOGITS, axis=-1), TARGETS[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses.token_logprobs(LOGITS, TARGETS), reference, rtol=1e-5)
    np.testing.assert_allclose(losses.entropy(LOGITS), stats.entropy(special.softmax(LOGITS, -1), axis=-1), rtol=1e-5)


def test_probabilities_of_all_targets_add_up_to_one():
    everything = jnp.broadcast_to(jnp.arange(5), (3, 5))
    logprobs = losses.token_logprobs(jnp.broadcast_to(jnp.asarray(LOGITS[0])[:, None], (3, 5, 5)), everything)
    np.testing.assert_allclose(jnp.exp(logprobs).sum(-1), 1, rtol=1e-6)


def test_a_common_offset_changes_nothing_even_a_large_one():
    logits = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(losses.token_logprobs(logits + 4096.0, 1), losses.token_logprobs(logits, 1))
    np.testing.assert_array_equal(losses.entropy(logits + 4096.0), losses.entropy(logits))


@pytest.mark.parametrize("target", [-1, -100, 5, 1000])
def test_a_target_outside_the_vocabulary_is_nan_and_hidden_by_the_mask(target):
    targets, mask = jnp.array([[2, target]]), jnp.array([[True, False]])
    logits = jnp.asarray(LOGITS[:1, :2], jnp.float32)
    assert jnp.isnan(losses.token_logprobs(logits, targets)).tolist() == [[False, True]]

    def loss(logits):
        return -losses.masked_mean(losses.token_logprobs(logits, targets), mask)

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, -special.log_softmax(LOGITS[0, 0])[2], rtol=1e-5)
    assert jnp.isfinite(gradient).all()
    assert not gradient[0, 1].any()


def test_a_token_that_cannot_be_drawn():
    logits = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(losses.entropy(logits), np.log(2), rtol=1e-6)
    assert jnp.isfinite(jax.grad(losses.entropy)(logits)).all()
    assert losses.token_logprobs(logits, 2) == -jnp.inf
    assert jnp.isfinite(jax.grad(losses.token_logprobs)(logits, 0)).all()


def test_gradients(check_gradient):
    check_gradient(lambda logits: losses.token_logprobs(logits, TARGETS), LOGITS)
    check_gradient(losses.entropy, LOGITS)


def test_the_gradient_is_onehot_less_probabilities():
    gradient = jax.grad(losses.token_logprobs)(jnp.log(jnp.array([0.2, 0.3, 0.5])), 1)
    np.testing.assert_allclose(gradient, [-0.2, 0.7, -0.5], rtol=1e-6)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(AssertionError):
        losses.token_logprobs(LOGITS, TARGETS[:, :2])
