import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives
from rlhf_jax.losses.checks import UnusualHyperparameter


def cost(p, first, second, margin, theta):
    """Of one pair, without the centring."""
    s = np.sign(p - 0.5)
    if theta is None:
        d = first - second - margin * s
        return p * np.log1p(np.exp(-d)) + (1 - p) * np.log1p(np.exp(d))
    strength, other = (
        (np.exp(first - margin * s), np.exp(second)) if s >= 0 else (np.exp(second + margin * s), np.exp(first))
    )
    beats = strength / (strength + theta * other)
    return -np.log(beats if s else (theta**2 - 1) * beats * other / (other + theta * strength))


def by_loops(scores, votes, present, *, center=0.0, margin=0.0, theta=None):
    """The definition, pair by pair: the mean over prompts of the mean over their pairs, and the metrics."""
    prompts, right, gaps = [], [], []
    for r, v, here in zip(scores, votes, present, strict=True):
        pairs = []
        for i, j in itertools.combinations(range(len(r)), 2):
            if v[i, j] + v[j, i] == 0 or not (here[i] and here[j]):
                continue
            p = v[i, j] / (v[i, j] + v[j, i])
            pairs.append(cost(p, r[i], r[j], margin, theta) + center * (r[i] + r[j]) ** 2)
            if p != 0.5:
                gaps.append((r[i] - r[j]) * np.sign(p - 0.5))
                right.append(gaps[-1] > 0)
        if pairs:
            prompts.append(np.mean(pairs))
    return np.mean(prompts), np.mean(right), np.mean(gaps)


OPTIONS = [{}, {"center": 0.1}, {"margin": 0.5}, {"center": 0.01, "margin": 1.0}]


@pytest.mark.parametrize("options", [o | t for o in OPTIONS for t in ({}, {"theta": 1.5})], ids=str)
def test_against_loops(batch, outputs, total, options):
    loss = objectives.reward_model(outputs, batch, **options)
    arrays = (np.asarray(x, np.float64) for x in (outputs.scores, batch.votes, batch.mask.any(-1)))
    value, accuracy, margin = by_loops(*arrays, **options)
    np.testing.assert_allclose(total(loss), value, rtol=1e-5)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["accuracy"]), accuracy, rtol=1e-6)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["reward_margin"]), margin, rtol=1e-5)
    mean = outputs.scores[:2].mean()  # the third group is empty
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["reward_mean"]), mean, rtol=1e-5)


def test_worked_number(batch, outputs, total):
    votes = jnp.zeros((3, 3, 3)).at[0, 0, 2].set(3.0).at[0, 2, 0].set(1.0)
    scores = jnp.zeros((3, 3)).at[0, 0].set(np.log(3.0))
    loss = objectives.reward_model(outputs._replace(scores=scores), batch._replace(votes=votes))
    expected = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)  # P = 3/4 and three of four votes
    np.testing.assert_allclose(total(loss), expected, rtol=1e-6)
    assert loss.mask.sum() == 1


def test_ties_by_hand(batch, outputs, total):
    """Strengths 3 and 1 and theta 2: the winner's 3 / (3 + 2), and 3 * 3 / (5 * 7) for a tie."""
    scores = jnp.zeros((3, 3)).at[0, 0].set(np.log(3.0))
    for votes, probability in (((2.0, 1.0), 3 / 5), ((1.0, 2.0), 1 / 7), ((2.0, 2.0), 9 / 35), ((0.5, 0.5), 9 / 35)):
        given = batch._replace(votes=jnp.zeros((3, 3, 3)).at[0, 0, 2].set(votes[0]).at[0, 2, 0].set(votes[1]))
        loss = objectives.reward_model(outputs._replace(scores=scores), given, theta=2.0)
        np.testing.assert_allclose(total(loss), -np.log(probability), rtol=1e-6)


def test_without_room_for_ties_and_without_ties_it_is_bradley_terry_on_majorities(batch, outputs, total):
    rng = np.random.default_rng(2)
    soft = jnp.asarray(rng.permuted(np.arange(27.0)).reshape(3, 3, 3), jnp.float32)
    hard = (soft > jnp.swapaxes(soft, 1, 2)).astype(jnp.float32)
    options = {"center": 0.1, "margin": 0.5}
    np.testing.assert_allclose(
        total(objectives.reward_model(outputs, batch._replace(votes=soft), theta=1.0, **options)),
        total(objectives.reward_model(outputs, batch._replace(votes=hard), **options)),
        rtol=1e-6,
    )


def test_a_tie_draws_scores_together_and_has_no_margin(batch, outputs, total):
    votes = jnp.zeros((3, 3, 3)).at[0, 0, 2].set(1.0).at[0, 2, 0].set(1.0)

    def loss(scores):
        given = outputs._replace(scores=scores), batch._replace(votes=votes)
        return total(objectives.reward_model(*given, theta=1.5, margin=1.0))

    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros((3, 3))), 0, atol=1e-7)
    gradient = jax.grad(loss)(jnp.zeros((3, 3)).at[0, 0].set(1.0))
    assert gradient[0, 0] > 0 > gradient[0, 2]


@pytest.mark.parametrize("theta", [None, 1.0, 2.0])
def test_no_gradient_flows_into_the_votes(batch, outputs, total, theta):
    def loss(votes):
        return total(objectives.reward_model(outputs, batch._replace(votes=votes), margin=0.1, theta=theta))

    decided = batch.votes + jnp.triu(jnp.ones((3, 3, 3)), 1) / 3  # theta = 1 allows no tie
    assert not jax.grad(loss)(decided).any()


def test_the_order_of_the_responses_does_not_matter(batch, outputs, total):
    turn = jnp.array([2, 0, 1])
    turned = batch._replace(mask=batch.mask[:, turn], votes=batch.votes[:, turn][:, :, turn])
    for theta in (None, 1.5):
        options = {"center": 0.1, "margin": 0.5, "theta": theta}
        np.testing.assert_allclose(
            total(objectives.reward_model(outputs._replace(scores=outputs.scores[:, turn]), turned, **options)),
            total(objectives.reward_model(outputs, batch, **options)),
            rtol=1e-6,
        )


def test_a_prompt_weighs_the_same_however_many_pairs_it_has(batch, outputs, total):
    scores = jnp.zeros((3, 3)).at[0].set(jnp.array([50.0, 0.0, -50.0]))  # costs nothing; every other pair log 2
    three_pairs = jnp.ones((3, 3))
    one_pair = jnp.zeros((3, 3)).at[0, 1].set(1.0)
    votes = jnp.stack([jnp.triu(three_pairs, 1), one_pair, three_pairs])
    loss = objectives.reward_model(outputs._replace(scores=scores), batch._replace(votes=votes))
    np.testing.assert_allclose(total(loss), np.log(2) / 2, rtol=1e-6)


def test_equal_scores_are_half_right(batch, outputs):
    loss = objectives.reward_model(outputs._replace(scores=jnp.zeros((3, 3))), batch)
    assert losses.masked_mean(*loss.metrics["accuracy"]) == 0.5


@pytest.mark.parametrize("theta", [None, 1.0, 2.0])
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_scores_of_empty_responses_do_not_matter(batch, outputs, total, poison, theta):
    batch = batch._replace(votes=batch.votes.at[1, 0, 2].set(3.0))  # theta = 1 allows no tie
    objective = functools.partial(objectives.reward_model, center=0.1, theta=theta)
    value_and_gradient = jax.value_and_grad(lambda x: total(objective(outputs._replace(scores=x), batch)))
    poisoned = value_and_gradient(outputs.scores.at[2].set(poison))
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(outputs.scores))


@pytest.mark.parametrize("theta", [None, 1.0, 2.0])
def test_a_batch_without_a_single_vote_is_finite(batch, outputs, total, theta):
    silent = batch._replace(votes=jnp.zeros_like(batch.votes))
    value, gradient = jax.value_and_grad(
        lambda x: total(objectives.reward_model(outputs._replace(scores=x), silent, center=0.1, theta=theta))
    )(outputs.scores)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("theta", [None, 1.5])
def test_gradient(batch, outputs, total, theta):
    with jax.enable_x64(True):
        scores = jnp.asarray(np.asarray(outputs.scores), jnp.float64)
        objective = functools.partial(objectives.reward_model, center=0.1, margin=0.3, theta=theta)
        check_grads(lambda x: total(objective(outputs._replace(scores=x), batch)), (scores,), order=1, modes=["rev"])


@pytest.mark.parametrize(("bad", "least"), [({"center": -0.1}, 0), ({"margin": -1.0}, 0), ({"theta": 0.5}, 1)])
def test_nonsense_is_refused(batch, outputs, bad, least):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be at least {least}"):
        objectives.reward_model(outputs, batch, **({"theta": 2.0} | bad))


@pytest.mark.parametrize("unusual", [{"center": 1.0}, {"margin": 5.0}, {"theta": 9.0}])
def test_unusual_values_are_warned_of(batch, outputs, unusual):
    with pytest.warns(UnusualHyperparameter, match=f"{next(iter(unusual))} is .* outside the usual"):
        objectives.reward_model(outputs, batch, **unusual)


def test_missing_fields_are_named(batch, outputs):
    with pytest.raises(ValueError, match=r"batch\.votes is None"):
        objectives.reward_model(outputs, batch._replace(votes=None))
    with pytest.raises(ValueError, match=r"outputs\.scores is None"):
        objectives.reward_model(outputs._replace(scores=None), batch)
