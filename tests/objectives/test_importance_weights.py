"""Samples of an older policy: what each objective multiplies with their importance weights, and what it leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, objectives, testing
from rlhf_jax.types import Outputs

BY_TOKEN = {"a2c", "dapo", "dr_grpo", "grpo", "ppo"}
BY_RESPONSE = {"gspo": losses.masked_mean, "reinforce": losses.masked_sum, "rloo": losses.masked_sum}
UNWEIGHTED = {"expert_iteration", "online_dpo"}  # no policy gradients: imitation and comparison, whoever sampled
NO_KL = {name: {"kl_coef": 0.0} for name in {*BY_TOKEN, *BY_RESPONSE}}
OPTIONS = {**NO_KL, "dr_grpo": {"max_length": 14, "kl_coef": 0.0}, "expert_iteration": {}, "online_dpo": {}}
CAP = 1.1


def bound(name, **more):
    return functools.partial(getattr(objectives, name), **OPTIONS[name], **more)


def batch_and_outputs(shift):
    """A batch whose tokens another policy sampled, with log-probabilities that differ by ``shift``."""
    batch = testing.tiny_batch(groups=4)
    rng = np.random.default_rng(3)
    outputs = Outputs(
        logprobs=batch.old_logprobs,
        entropy=jnp.ones(batch.mask.shape),
        values=jnp.asarray(batch.old_values + rng.normal(size=batch.mask.shape), jnp.float32),
    )
    cap = jnp.full(batch.reward.shape, CAP)
    return batch._replace(behaviour_logprobs=batch.old_logprobs - shift, importance_cap=cap), outputs


def random_shift():
    batch = testing.tiny_batch(groups=4)
    return jnp.asarray(np.random.default_rng(1).normal(0.0, 0.3, batch.mask.shape), jnp.float32)


def policy_gradient_of(objective, batch, outputs):
    """The gradient in every token's log-probability."""

    def loss(logprobs):
        given = objective(outputs._replace(logprobs=logprobs), batch)
        return given.reduction(given.values, given.mask)[0]

    return jax.jit(jax.grad(loss))(outputs.logprobs)


def plain(batch):
    return batch._replace(behaviour_logprobs=None, importance_cap=None)


@pytest.mark.parametrize("name", sorted(BY_TOKEN))
def test_a_token_is_weighed_by_its_own_ratio(name):
    shift = random_shift()
    batch, outputs = batch_and_outputs(shift)
    want = jnp.minimum(jnp.exp(shift), CAP) * policy_gradient_of(bound(name), plain(batch), outputs)
    found = policy_gradient_of(bound(name), batch, outputs)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("name", sorted(BY_RESPONSE))
def test_a_response_that_is_one_action_has_one_weight(name):
    shift = random_shift()
    batch, outputs = batch_and_outputs(shift)
    weights = jnp.minimum(jnp.exp(BY_RESPONSE[name](shift, batch.mask, axis=-1)), CAP)
    assert (weights == CAP).any()
    assert (weights < 1).any()
    want = weights[..., None] * policy_gradient_of(bound(name), plain(batch), outputs)
    np.testing.assert_allclose(policy_gradient_of(bound(name), batch, outputs), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(UNWEIGHTED))
def test_objectives_without_a_policy_gradient_weigh_nothing(name):
    batch, outputs = batch_and_outputs(random_shift())
    found, want = (policy_gradient_of(bound(name), x, outputs) for x in (batch, plain(batch)))
    np.testing.assert_array_equal(found, want)
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("name", sorted({*BY_TOKEN, *BY_RESPONSE}))
def test_where_the_policy_itself_sampled_the_loss_is_the_very_same(name):
    batch, outputs = batch_and_outputs(0.0)
    weighed, bare = (bound(name)(outputs, x).values for x in (batch, plain(batch)))
    np.testing.assert_array_equal(weighed[batch.mask.any(-1)], bare[batch.mask.any(-1)])


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_the_critic_and_the_entropy_bonus_are_not_weighed(name):
    batch, outputs = batch_and_outputs(random_shift())
    nothing = batch._replace(advantages=jnp.zeros_like(batch.advantages))
    objective = bound(name, entropy_coef=0.01)
    weighed, bare = (objective(outputs, x).values for x in (nothing, plain(nothing)))
    np.testing.assert_array_equal(weighed[batch.mask], bare[batch.mask])


@pytest.mark.parametrize("name", sorted({*BY_TOKEN, *BY_RESPONSE}))
def test_what_lies_behind_the_mask_and_a_missing_cap(name):
    batch, outputs = batch_and_outputs(random_shift())
    poisoned = batch._replace(behaviour_logprobs=jnp.where(batch.mask, batch.behaviour_logprobs, jnp.nan))
    found, want = (policy_gradient_of(bound(name), x, outputs) for x in (poisoned, batch))
    np.testing.assert_array_equal(found, want)
    with pytest.raises(ValueError, match=r"batch\.importance_cap is None"):
        bound(name)(outputs, batch._replace(importance_cap=None))


@pytest.mark.parametrize("name", sorted({*BY_TOKEN, *BY_RESPONSE}))
def test_no_gradient_flows_into_the_older_policy(name):
    batch, outputs = batch_and_outputs(random_shift())

    def loss(behaviour, cap):
        given = bound(name)(outputs, batch._replace(behaviour_logprobs=behaviour, importance_cap=cap))
        return given.reduction(given.values, given.mask)[0]

    for gradient in jax.grad(loss, argnums=(0, 1))(batch.behaviour_logprobs, batch.importance_cap):
        assert not gradient.any()
