import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
REWARDS, VALUES = RNG.normal(size=(4, 7)), RNG.normal(size=(4, 7))
MASK = np.array(
    [
        [0, 0, 1, 1, 1, 0, 0],  # a prompt on the left, padding on the right
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 1, 0, 0, 1, 0],  # holes
        [0, 0, 0, 0, 0, 0, 0],
    ],
    bool,
)


def by_definition(rewards, values, gamma, gae_lambda):
    """``A_t = sum_l (gamma lambda)^l delta_{t+l}``, as a double loop over one sequence."""
    length = len(rewards)
    after = np.append(values[1:], 0.0)
    delta = rewards + gamma * after - values
    return np.array([sum((gamma * gae_lambda) ** (u - t) * delta[u] for u in range(t, length)) for t in range(length)])


def test_worked_number():
    # delta = (0 + 0.5 * 2 - 1, 1 + 0.5 * 3 - 2, 4 - 3) = (0, 0.5, 1); gamma lambda = 0.25
    advantages, returns = losses.gae(
        jnp.array([0.0, 1.0, 4.0]), jnp.array([1.0, 2.0, 3.0]), jnp.ones(3), gamma=0.5, gae_lambda=0.5
    )
    assert advantages.tolist() == [0.1875, 0.75, 1.0]
    assert returns.tolist() == [1.1875, 2.75, 4.0]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0), (0.0, 0.95)])
def test_each_row_is_the_definition_on_its_counted_tokens(gamma, gae_lambda):
    advantages, returns = losses.gae(REWARDS, VALUES, MASK, gamma=gamma, gae_lambda=gae_lambda)
    for row in range(4):
        keep = MASK[row]
        expected = by_definition(REWARDS[row, keep], VALUES[row, keep], gamma, gae_lambda)
        np.testing.assert_allclose(advantages[row, keep], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(returns[row, keep], expected + VALUES[row, keep], rtol=1e-5, atol=1e-6)
    assert not advantages[~MASK].any()
    assert not returns[~MASK].any()


def test_lambda_1_returns_are_the_rewards_to_come():
    _, returns = losses.gae(REWARDS, VALUES, np.ones_like(MASK), gae_lambda=1.0)
    np.testing.assert_allclose(returns, np.cumsum(REWARDS[:, ::-1], axis=1)[:, ::-1], rtol=1e-5, atol=1e-6)


def test_lambda_0_is_the_one_step_error():
    advantages, _ = losses.gae(REWARDS, VALUES, np.ones_like(MASK), gae_lambda=0.0)
    after = np.append(VALUES[:, 1:], np.zeros((4, 1)), axis=1)
    np.testing.assert_allclose(advantages, REWARDS + after - VALUES, rtol=1e-5, atol=1e-6)


def test_a_critic_that_is_right_leaves_no_advantage():
    values = np.cumsum(REWARDS[:, ::-1], axis=1)[:, ::-1]
    advantages, _ = losses.gae(REWARDS, values, np.ones_like(MASK))
    np.testing.assert_allclose(advantages, 0, atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_behind_the_mask_nothing_matters(poison):
    def total(rewards, values):
        advantages, returns = losses.gae(rewards, values, MASK)
        return jnp.square(advantages).sum() + jnp.square(returns).sum()

    value_and_gradient = jax.value_and_grad(total, argnums=(0, 1))
    clean = value_and_gradient(jnp.asarray(REWARDS), jnp.asarray(VALUES))
    poisoned = value_and_gradient(
        jnp.asarray(np.where(MASK, REWARDS, poison)), jnp.asarray(np.where(MASK, VALUES, poison))
    )
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)


def test_any_leading_shape():
    shape = (2, 2, 7)
    deep = losses.gae(REWARDS.reshape(shape), VALUES.reshape(shape), MASK.reshape(shape))
    flat = losses.gae(REWARDS, VALUES, MASK)
    for x, y in zip(deep, flat, strict=True):
        np.testing.assert_array_equal(x.reshape(4, 7), y)
    for x, y in zip(losses.gae(REWARDS[0], VALUES[0], MASK[0]), flat, strict=True):
        np.testing.assert_array_equal(x, y[0])


def test_integer_rewards_are_not_truncated():
    advantages, _ = losses.gae(jnp.array([0, 1]), jnp.array([0.5, 0.5]), jnp.ones(2), gae_lambda=0.5)
    assert advantages.tolist() == [0.25, 0.5]


def test_gradient(check_gradient):
    check_gradient(lambda r, v: jnp.stack(losses.gae(r, v, MASK, gamma=0.9)), REWARDS, VALUES)


@pytest.mark.parametrize("bad", [{"gamma": 1.1}, {"gamma": -0.1}, {"gae_lambda": 2.0}, {"gae_lambda": -1.0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        losses.gae(REWARDS, VALUES, MASK, **bad)


def test_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.gae(REWARDS, VALUES[:, :6], MASK)
    with pytest.raises(AssertionError):
        losses.gae(REWARDS[:, :6], VALUES[:, :6], MASK)


def test_nothing_flows_back_over_an_end():
    """Two episodes in one row are two rows."""
    ends = np.array([0, 1, 0, 0, 1])
    rewards, values = np.random.default_rng(5).normal(size=(2, 5))
    whole = losses.gae(rewards, values, np.ones(5), gamma=0.9, gae_lambda=0.8, ends=ends)
    for part in (slice(0, 2), slice(2, 5)):
        alone = losses.gae(rewards[part], values[part], np.ones(part.stop - part.start), gamma=0.9, gae_lambda=0.8)
        for x, y in zip(whole, alone, strict=True):
            np.testing.assert_allclose(x[part], y, rtol=1e-6)
