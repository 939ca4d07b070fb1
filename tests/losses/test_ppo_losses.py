import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
OLD = RNG.normal(size=(3, 4)) - 2
LOGPROBS, ADVANTAGES = OLD + 0.4 * RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4))


def surrogate(ratio, advantage, **options):
    """Value and gradient (in the log-probability) of one token with the given ratio."""
    return jax.value_and_grad(lambda logp: losses.clipped_surrogate(logp, 0.0, advantage, **options))(np.log(ratio))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: no more to gain
        (0.5, 2.0, -1.0, -1.0),  # good but less likely: the way back is open
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely
        (1.5, -2.0, 3.0, 3.0),  # bad but likelier: the way back is open
    ],
)
def test_worked_numbers_in_every_corner(ratio, advantage, value, gradient):
    np.testing.assert_allclose(surrogate(ratio, advantage), (value, gradient), rtol=1e-5)


def test_at_ratio_1_it_is_the_policy_gradient():
    logits = jnp.asarray(RNG.normal(size=(3, 4, 6)), jnp.float32)
    tokens = jnp.asarray(RNG.integers(6, size=(3, 4)))
    advantages = jnp.asarray(ADVANTAGES, jnp.float32)
    old = losses.token_logprobs(logits, tokens)

    def ppo(logits):
        return losses.clipped_surrogate(losses.token_logprobs(logits, tokens), old, advantages, dual_clip=3.0).sum()

    def reinforce(logits):
        return -(advantages * losses.token_logprobs(logits, tokens)).sum()

    np.testing.assert_allclose(jax.grad(ppo)(logits), jax.grad(reinforce)(logits), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ppo(logits), -advantages.sum(), rtol=1e-6)


def test_two_ranges():
    assert surrogate(1.25, 1.0, clip_high=0.28)[1] != 0
    assert surrogate(1.25, 1.0, clip_high=0.2)[1] == 0
    np.testing.assert_allclose(surrogate(2.0, 1.0, clip_high=0.28)[0], -1.28, rtol=1e-6)
    np.testing.assert_allclose(surrogate(0.1, -1.0, clip_low=0.3)[0], 0.7, rtol=1e-6)


def test_without_clipping_it_is_importance_sampling():
    values = losses.clipped_surrogate(LOGPROBS, OLD, ADVANTAGES, clip_low=math.inf, clip_high=math.inf)
    np.testing.assert_allclose(values, -np.exp(LOGPROBS - OLD) * ADVANTAGES, rtol=1e-5)


def test_it_never_promises_more_than_the_unclipped_one():
    clipped = losses.clipped_surrogate(LOGPROBS, OLD, ADVANTAGES)
    assert (clipped >= -np.exp(LOGPROBS - OLD) * ADVANTAGES - 1e-6).all()


def test_dual_clip_bounds_bad_tokens_only():
    np.testing.assert_allclose(surrogate(10.0, -2.0), (20.0, 20.0), rtol=1e-5)
    np.testing.assert_allclose(surrogate(10.0, -2.0, dual_clip=3.0), (6.0, 0.0), rtol=1e-5)
    np.testing.assert_allclose(surrogate(10.0, 2.0, dual_clip=3.0), surrogate(10.0, 2.0), rtol=1e-6)
    np.testing.assert_allclose(surrogate(2.0, -2.0, dual_clip=3.0), surrogate(2.0, -2.0), rtol=1e-6)


@pytest.mark.parametrize("gap", [100.0, -100.0, 1e4])
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_a_ratio_beyond_float32_stays_finite(gap, advantage, dual_clip):
    loss = jax.value_and_grad(lambda x: losses.clipped_surrogate(x, 0.0, advantage, dual_clip=dual_clip))
    value, gradient = loss(gap)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)


def test_surrogate_gradient(check_gradient):
    check_gradient(losses.clipped_surrogate, LOGPROBS, OLD, ADVANTAGES)
    check_gradient(
        lambda x, old, a: losses.clipped_surrogate(x, old, a, clip_low=0.1, clip_high=0.3, dual_clip=1.2),
        LOGPROBS,
        OLD,
        ADVANTAGES,
    )


@pytest.mark.parametrize("bad", [{"clip_low": 0.0}, {"clip_high": -0.2}, {"dual_clip": 1.0}, {"dual_clip": 0.5}])
def test_surrogate_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        losses.clipped_surrogate(LOGPROBS, OLD, ADVANTAGES, **bad)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient"),
    [
        (0.1, 0.0, 1.0, 0.405, -0.9),  # inside the range: squared error
        (0.5, 0.0, 1.0, 0.32, 0.0),  # has moved towards the return by more than 0.2: nothing to gain
        (-0.5, 0.0, 1.0, 1.125, -1.5),  # has moved away: the way back is open
        (2.0, 0.0, 1.0, 0.5, 1.0),  # overshot, and further from the return than the clipped value is
    ],
)
def test_value_worked_numbers(value, old, target, loss, gradient):
    result = jax.value_and_grad(lambda v: losses.clipped_value(v, old, target))(value)
    np.testing.assert_allclose(result, (loss, gradient), rtol=1e-5, atol=1e-7)


def test_value_without_clipping_is_the_squared_error():
    values, old, returns = LOGPROBS, OLD, ADVANTAGES
    unclipped = losses.clipped_value(values, old, returns, clip=math.inf)
    np.testing.assert_allclose(unclipped, 0.5 * (values - returns) ** 2, rtol=1e-5)
    assert (losses.clipped_value(values, old, returns, clip=0.1) >= unclipped - 1e-6).all()


def test_value_gradient(check_gradient):
    check_gradient(losses.clipped_value, LOGPROBS, OLD, ADVANTAGES)


@pytest.mark.parametrize("clip", [0.0, -0.2])
def test_value_refuses_nonsense(clip):
    with pytest.raises(ValueError, match="clip must be above 0"):
        losses.clipped_value(LOGPROBS, OLD, ADVANTAGES, clip=clip)


@pytest.mark.parametrize("loss", [losses.clipped_surrogate, losses.clipped_value])
def test_different_shapes_are_refused(loss):
    with pytest.raises(AssertionError):
        loss(LOGPROBS, OLD, ADVANTAGES[:, :1])
