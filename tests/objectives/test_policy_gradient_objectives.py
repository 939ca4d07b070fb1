"""A2C and REINFORCE: the policy gradient, with and without a critic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.types import Outputs

ALL = {
    "a2c": (
        functools.partial(objectives.a2c, kl_coef=0.1, entropy_coef=0.01),
        ("advantages", "returns", "ref_logprobs"),
    ),
    "reinforce": (
        functools.partial(objectives.reinforce, baseline=0.4, kl_coef=0.1, entropy_coef=0.01),
        ("reward", "old_logprobs", "ref_logprobs"),
    ),
}
EACH = pytest.mark.parametrize(("objective", "fields"), ALL.values(), ids=ALL)


@pytest.fixture
def batch(batch):
    rng = np.random.default_rng(2)
    return batch._replace(
        reward=jnp.asarray(rng.normal(size=batch.mask.shape[:2]), jnp.float32),
        ref_logprobs=batch.old_logprobs + jnp.asarray(0.2 * rng.normal(size=batch.mask.shape), jnp.float32),
    )


def means(loss):
    return {name: float(losses.masked_mean(*pair)) for name, pair in loss.metrics.items()}


def counted(x, batch):
    return np.asarray(x, np.float64)[np.asarray(batch.mask)]


def summed(x, batch):
    """Per response, [B, K]."""
    return np.where(batch.mask, np.asarray(x, np.float64), 0).sum(-1)


def test_a2c_against_numpy_on_the_counted_tokens(batch, outputs, total):
    logp, entropy, value = (counted(getattr(outputs, name), batch) for name in ("logprobs", "entropy", "values"))
    advantage, target = counted(batch.advantages, batch), counted(batch.returns, batch)
    loss = objectives.a2c(outputs, batch, value_coef=0.7, entropy_coef=0.02)
    policy, critic = -advantage * logp, 0.5 * (value - target) ** 2
    np.testing.assert_allclose(total(loss), (policy + 0.7 * critic - 0.02 * entropy).mean(), rtol=1e-5)
    expected = {
        "policy_loss": policy.mean(),
        "value_loss": critic.mean(),
        "entropy": entropy.mean(),
    }
    logged = means(loss)
    assert set(logged) == set(expected)
    for name, number in expected.items():
        np.testing.assert_allclose(logged[name], number, rtol=1e-4, err_msg=name)


def test_on_the_first_update_of_a_batch_a2c_is_ppo(batch, outputs, total):
    fresh = outputs._replace(logprobs=batch.old_logprobs, values=batch.old_values)
    options = {"value_coef": 0.3, "entropy_coef": 0.01, "kl_coef": 0.2, "kl_estimator": losses.k2}
    a2c, ppo = (functools.partial(f, **options) for f in (objectives.a2c, objectives.ppo))
    gradients = [jax.grad(lambda out, f=f: total(f(out, batch)))(fresh) for f in (a2c, ppo)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *gradients)


def test_reinforce_by_hand(batch, outputs, total):
    price = 0.1 * summed(batch.old_logprobs - batch.ref_logprobs, batch)
    advantage = np.asarray(batch.reward) - price - 0.4
    present = np.asarray(batch.mask.any(-1))
    policy = -advantage * summed(outputs.logprobs, batch)
    entropy = summed(outputs.entropy, batch)
    loss = objectives.reinforce(outputs, batch, baseline=0.4, kl_coef=0.1, entropy_coef=0.02)
    np.testing.assert_allclose(total(loss), (policy - 0.02 * entropy)[present].mean(), rtol=1e-5)
    expected = {
        "policy_loss": policy[present].mean(),
        "advantage": advantage[present].mean(),
        "advantage_abs": np.abs(advantage)[present].mean(),
        "reward": np.asarray(batch.reward)[present].mean(),
        "entropy": counted(outputs.entropy, batch).mean(),
        "ref_kl": counted(batch.old_logprobs - batch.ref_logprobs, batch).mean(),
    }
    logged = means(loss)
    assert set(logged) == set(expected)
    for name, number in expected.items():
        np.testing.assert_allclose(logged[name], number, rtol=1e-4, err_msg=name)


def test_reinforce_gives_every_token_the_return_of_its_response(batch, outputs, total):
    gradient = jax.grad(lambda x: total(objectives.reinforce(Outputs(logprobs=x), batch, baseline=0.4)))
    advantage = jnp.broadcast_to(batch.reward[..., None] - 0.4, batch.mask.shape)
    expected = jnp.where(batch.mask, -advantage, 0) / batch.mask.any(-1).sum()
    np.testing.assert_allclose(gradient(outputs.logprobs), expected, rtol=1e-5)


@pytest.mark.parametrize("baseline", [0.0, 3.0])
def test_a_baseline_changes_no_expected_gradient(batch, baseline):
    """One prompt, one token: each of the three responses there are, weighted by its probability."""
    one_token = jax.tree.map(lambda x: x[:1, :, :1], batch._replace(reward=None, votes=None, kl_coef=None))
    batch = one_token._replace(mask=jnp.ones((1, 3, 1), bool), reward=jnp.array([[2.0, -1.0, 0.5]]))
    logits = jnp.array([0.2, -0.7, 1.1])
    probs = jax.nn.softmax(logits)

    def expected_loss(logits):
        sampled = Outputs(logprobs=jax.nn.log_softmax(logits).reshape(1, 3, 1))
        return jnp.sum(probs * objectives.reinforce(sampled, batch, baseline=baseline).values.reshape(3))

    rising = jax.grad(lambda logits: jnp.sum(jax.nn.softmax(logits) * batch.reward[0]))(logits)
    np.testing.assert_allclose(jax.grad(expected_loss)(logits), -rising, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [objectives.a2c, objectives.reinforce])
def test_a_controller_sets_the_price_of_kl(batch, outputs, total, objective):
    controlled = batch._replace(kl_coef=jnp.full(batch.mask.shape[:2], 0.3))
    fixed = total(objective(outputs, batch, kl_coef=0.3))
    np.testing.assert_allclose(total(objective(outputs, controlled)), fixed, rtol=1e-6)
    assert fixed != total(objective(outputs, batch))


def test_integer_rewards_are_not_truncated(batch, outputs, total):
    rewards = jnp.asarray([[1, 0, 2], [0, 1, 1], [0, 0, 0]])
    as_int, as_float = (
        total(objectives.reinforce(outputs, batch._replace(reward=r), baseline=0.5))
        for r in (rewards, rewards.astype(jnp.float32))
    )
    assert as_int == as_float


@EACH
def test_no_gradient_flows_into_what_was_computed_before(batch, outputs, total, objective, fields):
    gradients = jax.grad(lambda fixed: total(objective(outputs, batch._replace(**fixed))))(
        {name: getattr(batch, name) for name in fields}
    )
    assert not any(g.any() for g in gradients.values())


@EACH
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, objective, fields, poison):
    def hide(x):
        return jnp.where(batch.mask if x.ndim == 3 else batch.mask.any(-1), x, poison)

    def value_and_gradient(outputs, batch):
        return jax.value_and_grad(lambda out: total(objective(out, batch)))(outputs)

    learned = outputs._replace(scores=None)
    poisoned = batch._replace(**{name: hide(getattr(batch, name)) for name in fields})
    got = value_and_gradient(jax.tree.map(hide, learned), poisoned)
    jax.tree.map(np.testing.assert_array_equal, got, value_and_gradient(learned, batch))


@EACH
def test_gradient(batch, outputs, total, objective, fields):
    del fields
    with jax.enable_x64(True):
        names = ("logprobs", "entropy", "values")
        learned = [jnp.asarray(np.asarray(getattr(outputs, name)), jnp.float64) for name in names]
        check_grads(lambda *x: total(objective(Outputs(*x), batch)), learned, order=1, modes=["rev"])


@EACH
def test_missing_fields_are_named(batch, outputs, objective, fields):
    for name in fields:
        with pytest.raises(ValueError, match=rf"batch\.{name} is None"):
            objective(outputs, batch._replace(**{name: None}))
    for name in ("logprobs", "entropy"):
        with pytest.raises(ValueError, match=rf"outputs\.{name} is None"):
            objective(outputs._replace(**{name: None}), batch)


def test_what_is_switched_off_is_not_asked_for(batch, outputs):
    bare = batch._replace(old_logprobs=None, ref_logprobs=None)
    assert set(objectives.reinforce(Outputs(logprobs=outputs.logprobs), bare).metrics).isdisjoint({"ref_kl", "entropy"})
    objectives.a2c(outputs, bare._replace(old_values=None))


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (objectives.a2c, "value_coef"),
        (objectives.a2c, "entropy_coef"),
        (objectives.a2c, "kl_coef"),
        (objectives.reinforce, "kl_coef"),
        (objectives.reinforce, "entropy_coef"),
    ],
)
def test_nonsense_is_refused_and_the_unusual_warned_of(batch, outputs, objective, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        objective(outputs, batch, **{name: -0.1})
    with pytest.warns(UnusualHyperparameter, match=f"{name} is 7, outside the usual"):
        objective(outputs, batch, **{name: 7.0})
