import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import losses

LOGITS = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32) * 3
TARGETS = np.array([[0, 4, 2], [1, 1, 3]])


def test_worked_number():
    logits = jnp.log(jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(losses.cross_entropy(logits, 0), np.log(4), rtol=1e-6)
    smoothed = 0.9 * np.log(4) + 0.1 * (np.log(4) + np.log(4 / 3)) / 2
    np.testing.assert_allclose(losses.cross_entropy(logits, 0, label_smoothing=0.1), smoothed, rtol=1e-6)


def test_it_is_the_negated_log_probability():
    np.testing.assert_array_equal(losses.cross_entropy(LOGITS, TARGETS), -losses.token_logprobs(LOGITS, TARGETS))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_against_optax(smoothing):
    labels = optax.smooth_labels(jnp.eye(5)[TARGETS], smoothing)
    reference = optax.softmax_cross_entropy(LOGITS, labels)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing), reference, rtol=1e-5)


def test_z_loss_is_the_squared_log_normaliser():
    logits = jnp.array([1.0, 2.0, 3.0])
    log_z = np.log(np.exp([1.0, 2.0, 3.0]).sum())
    extra = losses.cross_entropy(logits, 1, z_loss=0.1) - losses.cross_entropy(logits, 1)
    np.testing.assert_allclose(extra, 0.1 * log_z**2, rtol=1e-5)


def test_terms_that_are_off_do_not_meet_infinite_logits():
    logits = jnp.array([0.0, 0.0, -jnp.inf])
    np.testing.assert_allclose(losses.cross_entropy(logits, 0), np.log(2), rtol=1e-6)
    assert losses.cross_entropy(logits, 0, label_smoothing=0.1) == jnp.inf


def test_gradient(check_gradient):
    check_gradient(lambda x: losses.cross_entropy(x, TARGETS, label_smoothing=0.1, z_loss=0.01), LOGITS)


@pytest.mark.parametrize("bad", [{"label_smoothing": -0.1}, {"label_smoothing": 1.1}, {"z_loss": -1.0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        losses.cross_entropy(LOGITS, TARGETS, **bad)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(AssertionError):
        losses.cross_entropy(LOGITS, TARGETS[0])
