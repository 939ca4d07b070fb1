import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(2, 3, 5))
MASK = RNG.uniform(size=(2, 3, 5)) < 0.6


def test_worked_numbers():
    scores = losses.segment_scores(np.array([[1.0, 2.0, -0.5], [3.0, 0.0, 9.0]]), np.array([[1, 1, 1], [1, 1, 0]]))
    np.testing.assert_allclose(scores, [2.5, 3.0])
    assert losses.segment_scores(REWARDS[0, 0], np.zeros(5, bool)) == 0


def test_a_comparison_of_segments_is_one_of_their_sums():
    """Christiano et al. 2017: exp(sum r_1) / (exp(sum r_1) + exp(sum r_2))."""
    scores = losses.segment_scores(REWARDS, MASK)
    loss = losses.bradley_terry(scores[0], scores[1])
    strengths = np.exp(np.where(MASK, REWARDS, 0).sum(-1))
    np.testing.assert_allclose(loss, -np.log(strengths[0] / strengths.sum(0)), rtol=1e-5)


def test_every_step_of_a_segment_is_pulled_alike():
    def loss(rewards):
        scores = losses.segment_scores(rewards, MASK)
        return losses.bradley_terry(scores[0], scores[1]).sum()

    gradient = jax.grad(loss)(jnp.asarray(REWARDS, jnp.float32))
    for segment, there in zip(gradient.reshape(-1, 5), MASK.reshape(-1, 5), strict=True):
        assert len({*np.asarray(segment)[there].tolist()}) <= 1
        assert not segment[~there].any()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_behind_the_mask_nothing_matters(poison):
    def value_and_gradient(rewards):
        return jax.value_and_grad(lambda x: losses.segment_scores(x, MASK).sum())(jnp.asarray(rewards, jnp.float32))

    poisoned = value_and_gradient(np.where(MASK, REWARDS, poison))
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(REWARDS))


def test_gradient(check_gradient):
    check_gradient(lambda x: losses.segment_scores(x, MASK), REWARDS)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        losses.segment_scores(REWARDS, MASK[..., :3])
