"""What DPO does beyond labelled pairs: shares of votes for labels, and pairs picked among samples by their reward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, objectives, testing
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.types import Outputs, SequenceBatch

SOFT = functools.partial(objectives.dpo, beta=0.3, soft_labels=True)
ONLINE = functools.partial(objectives.online_dpo, beta=0.3)


def softplus(x):
    return np.log1p(np.exp(x))


def make(mask, **fields):
    """A batch and outputs whose log-ratio is ``gain`` nats on the first token of each response, 0 on the others."""
    rng = np.random.default_rng(0)
    gain = fields.pop("gain")
    ref = -1 - rng.exponential(size=mask.shape)
    first = mask & (mask.cumsum(-1) == 1)
    batch = SequenceBatch(
        tokens=jnp.asarray(rng.integers(9, size=mask.shape)),
        mask=jnp.asarray(mask),
        segment_ids=jnp.ones(mask.shape, int),
        positions=jnp.broadcast_to(jnp.arange(mask.shape[-1])[None, None], mask.shape),
        ref_logprobs=jnp.asarray(ref, jnp.float32),
        **{name: jnp.asarray(x, jnp.float32) for name, x in fields.items()},
    )
    return batch, Outputs(logprobs=jnp.asarray(ref + np.where(first, np.asarray(gain)[..., None], 0), jnp.float32))


# Shares of votes for the first response: 3/4, 1/5, a tie, no votes at all, and an empty group.
VOTES = [[[0, 3], [1, 0]], [[0, 1], [4, 0]], [[0, 2], [2, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
GAIN = np.array([[1.0, -1.0], [2.0, 1.0], [0.5, 0.0], [9.0, 0.0], [0.0, 0.0]])
GAP = 0.3 * (GAIN[:, 0] - GAIN[:, 1])  # of the implicit rewards, at beta 0.3


@pytest.fixture
def voted():
    mask = np.ones((5, 2, 3), bool)
    mask[:, 1, 2] = mask[4] = False
    return make(mask, votes=VOTES, gain=GAIN)


def test_soft_labels_are_shares_of_votes(voted, total):
    batch, outputs = voted
    share = np.array([0.75, 0.2, 0.5])
    expected = share * softplus(-GAP[:3]) + (1 - share) * softplus(GAP[:3])
    loss = SOFT(outputs, batch)
    np.testing.assert_array_equal(loss.mask, [True, True, True, False, False])
    np.testing.assert_allclose(loss.values[:3], expected, rtol=1e-5)
    np.testing.assert_allclose(total(loss), expected.mean(), rtol=1e-5)


def test_label_smoothing_mixes_soft_labels_with_the_opposite(voted):
    batch, outputs = voted
    share = np.array([0.75, 0.2, 0.5]) * 0.8 + np.array([0.25, 0.8, 0.5]) * 0.2
    expected = share * softplus(-GAP[:3]) + (1 - share) * softplus(GAP[:3])
    np.testing.assert_allclose(SOFT(outputs, batch, label_smoothing=0.2).values[:3], expected, rtol=1e-5)


def test_unanimous_votes_are_hard_labels(voted):
    batch, outputs = voted
    unanimous = batch._replace(votes=jnp.zeros((5, 2, 2)).at[:, 0, 1].set(3.0))
    hard = objectives.dpo(outputs, batch, beta=0.3)
    soft = SOFT(outputs, unanimous)
    jax.tree.map(np.testing.assert_array_equal, (soft.values, soft.mask), (hard.values, hard.mask))


def test_under_soft_labels_the_order_within_a_pair_does_not_matter(voted, total):
    batch, outputs = voted
    turned = batch._replace(
        mask=batch.mask[:, ::-1], ref_logprobs=batch.ref_logprobs[:, ::-1], votes=batch.votes[:, ::-1, ::-1]
    )
    one_way, other_way = SOFT(outputs, batch), SOFT(outputs._replace(logprobs=outputs.logprobs[:, ::-1]), turned)
    np.testing.assert_allclose(total(one_way), total(other_way), rtol=1e-6)
    for name, pair in one_way.metrics.items():
        np.testing.assert_allclose(
            losses.masked_mean(*pair), losses.masked_mean(*other_way.metrics[name]), rtol=1e-5, err_msg=name
        )


def test_under_soft_labels_the_majority_is_right(voted):
    batch, outputs = voted
    metrics = SOFT(outputs, batch).metrics
    assert losses.masked_mean(*metrics["accuracy"]) == 0.5  # right on the first, wrong on the second, no tie, no votes
    np.testing.assert_allclose(losses.masked_mean(*metrics["reward_margin"]), (GAP[0] - GAP[1]) / 2, rtol=1e-5)
    np.testing.assert_allclose(losses.masked_mean(*metrics["chosen_reward"]), 0.3 * (1 + 1) / 2, rtol=1e-5)


def test_votes_get_no_gradient_and_filler_votes_do_not_matter(voted, total):
    batch, outputs = voted
    assert not jax.grad(lambda v: total(SOFT(outputs, batch._replace(votes=v))))(batch.votes).any()
    poisoned = batch._replace(votes=batch.votes.at[4].set(jnp.nan))
    value, gradient = jax.value_and_grad(lambda o: total(SOFT(o, poisoned)))(outputs)
    np.testing.assert_array_equal(value, total(SOFT(outputs, batch)))
    assert jnp.isfinite(gradient.logprobs).all()


def test_missing_votes_are_named(voted):
    batch, outputs = voted
    with pytest.raises(ValueError, match=r"batch\.votes is None"):
        SOFT(outputs, batch._replace(votes=None))
    objectives.dpo(outputs, batch._replace(votes=None))


# Groups of four: rewards below 0 and one response empty; extremes by number that are empty; equal rewards but for an
# empty response; a single response; an empty group.
REWARD = [[-3, -1, -8, 0], [9, -9, 0.5, 0.25], [3, 3, 3, 7], [5, 1, 1, 1], [1, 2, 3, 4]]
PICKED = {0: (1, 2), 1: (2, 3)}  # which are best and worst
EMPTY = [(0, 3), (1, 0), (1, 1), (2, 3), (3, 1), (3, 2), (3, 3)]


@pytest.fixture
def sampled():
    rng = np.random.default_rng(3)
    mask = np.ones((5, 4, 3), bool)
    mask[4] = False
    for b, k in EMPTY:
        mask[b, k] = False
    return make(mask, reward=REWARD, gain=rng.normal(size=(5, 4)))


def test_the_best_and_the_worst_sample_are_the_pair(sampled, total):
    batch, outputs = sampled
    gained = 0.3 * losses.masked_sum(outputs.logprobs - batch.ref_logprobs, batch.mask, axis=-1)
    gaps = np.array([gained[b, best] - gained[b, worst] for b, (best, worst) in PICKED.items()])
    loss = ONLINE(outputs, batch)
    np.testing.assert_array_equal(loss.mask, [True, True, False, False, False])
    np.testing.assert_allclose(loss.values[:2], softplus(-gaps), rtol=1e-4)
    np.testing.assert_allclose(total(loss), softplus(-gaps).mean(), rtol=1e-4)
    smoothed = ONLINE(outputs, batch, label_smoothing=0.2)
    np.testing.assert_allclose(smoothed.values[:2], 0.8 * softplus(-gaps) + 0.2 * softplus(gaps), rtol=1e-4)


def test_on_groups_of_two_it_is_dpo(sampled, total):
    batch, outputs = sampled
    two = jax.tree.map(lambda x: x[:1, 1:3], (batch, outputs))
    online, plain = ONLINE(two[1], two[0]), objectives.dpo(two[1], two[0], beta=0.3)
    np.testing.assert_allclose(total(online), total(plain), rtol=1e-6)
    for name, pair in plain.metrics.items():
        np.testing.assert_allclose(losses.masked_mean(*online.metrics[name]), losses.masked_mean(*pair), err_msg=name)


def test_what_the_reward_function_gave_is_logged(sampled):
    batch, outputs = sampled
    metrics = ONLINE(outputs, batch).metrics
    np.testing.assert_allclose(losses.masked_mean(*metrics["reward_gap"]), (7 + 0.25) / 2, rtol=1e-6)
    assert losses.masked_mean(*metrics["paired"]) == 0.5  # two of four groups that have a response


def test_the_order_of_the_samples_does_not_matter(sampled, total):
    batch, outputs = sampled
    turn = jnp.array([2, 0, 3, 1])
    turned = jax.tree.map(lambda x: x[:, turn], (outputs, batch))
    np.testing.assert_allclose(total(ONLINE(*turned)), total(ONLINE(outputs, batch)), rtol=1e-6)


def test_only_the_best_and_the_worst_sample_are_taught(sampled, total):
    batch, outputs = sampled
    gradient = np.asarray(jax.grad(lambda o: total(ONLINE(o, batch)))(outputs).logprobs)
    taught = np.zeros((5, 4), bool)
    for b, pair in PICKED.items():
        taught[b, list(pair)] = True
    np.testing.assert_array_equal(gradient.any(-1), taught)
    assert all((gradient[b, best] < 0).all() and (gradient[b, worst] > 0).all() for b, (best, worst) in PICKED.items())


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(sampled, total, poison):
    def hide(x, where):
        return jnp.where(where, x, poison)

    def value_and_gradient(outputs, batch):
        return jax.value_and_grad(lambda o: total(ONLINE(o, batch)))(outputs)

    batch, outputs = sampled
    poisoned = batch._replace(
        ref_logprobs=hide(batch.ref_logprobs, batch.mask), reward=hide(batch.reward, batch.mask.any(-1))
    )
    hidden = value_and_gradient(Outputs(logprobs=hide(outputs.logprobs, batch.mask)), poisoned)
    jax.tree.map(np.testing.assert_array_equal, hidden, value_and_gradient(outputs, batch))
    assert jnp.isfinite(hidden[1].logprobs).all()


def test_no_gradient_flows_into_the_samples_of_online_dpo(sampled, total):
    batch, outputs = sampled

    def loss(ref_logprobs, reward):
        return total(ONLINE(outputs, batch._replace(ref_logprobs=ref_logprobs, reward=reward)))

    assert not any(g.any() for g in jax.grad(loss, argnums=(0, 1))(batch.ref_logprobs, batch.reward))


def test_a_batch_without_a_pair_costs_nothing(sampled, total):
    batch, outputs = sampled
    for hopeless in (batch._replace(reward=jnp.ones((5, 4))), batch._replace(mask=jnp.zeros_like(batch.mask))):
        value, gradient = jax.value_and_grad(lambda o, b=hopeless: total(ONLINE(o, b)))(outputs)
        assert value == 0
        assert not gradient.logprobs.any()


@pytest.mark.parametrize("name", ["reward", "ref_logprobs"])
def test_missing_fields_of_online_dpo_are_named(sampled, name):
    batch, outputs = sampled
    with pytest.raises(ValueError, match=rf"batch\.{name} is None"):
        ONLINE(outputs, batch._replace(**{name: None}))


def test_missing_log_probabilities_of_online_dpo_are_named(sampled):
    with pytest.raises(ValueError, match=r"outputs\.logprobs is None"):
        ONLINE(Outputs(), sampled[0])


def test_nonsense_is_refused_by_online_dpo(sampled):
    batch, outputs = sampled
    one = jax.tree.map(lambda x: x[:, :1], (outputs, batch))
    with pytest.raises(ValueError, match="groups of two responses or more, found groups of 1"):
        ONLINE(*one)
    with pytest.raises(ValueError, match="label_smoothing must be at least 0"):
        ONLINE(outputs, batch, label_smoothing=-0.1)
    with pytest.warns(UnusualHyperparameter, match="beta is -1"), pytest.raises(ValueError, match="beta must be above"):
        objectives.online_dpo(outputs, batch, beta=-1.0)
    with pytest.warns(UnusualHyperparameter, match="beta is 2"):
        objectives.online_dpo(outputs, batch, beta=2.0)


@pytest.mark.parametrize("responses", [2, 4])
def test_online_dpo_is_sound_on_a_model(quick_models, responses):
    assert "mesh" in testing.check_objective(ONLINE, batch=testing.tiny_batch(responses=responses))


def test_soft_labels_are_sound_on_a_model(quick_models):
    assert "mesh" in testing.check_objective(functools.partial(SOFT, label_smoothing=0.1))
