import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives


def by_loops(scores, votes, present, *, center=0.0, margin=0.0):
    """The definition, pair by pair: the mean over prompts of the mean over their pairs, and the metrics."""
    prompts, right, gaps = [], [], []
    for r, v, here in zip(scores, votes, present, strict=True):
        pairs = []
        for i, j in itertools.combinations(range(len(r)), 2):
            if v[i, j] + v[j, i] == 0 or not (here[i] and here[j]):
                continue
            p = v[i, j] / (v[i, j] + v[j, i])
            d = r[i] - r[j] - margin * np.sign(p - 0.5)
            pairs.append(p * np.log1p(np.exp(-d)) + (1 - p) * np.log1p(np.exp(d)) + center * (r[i] + r[j]) ** 2)
            if p != 0.5:
                gaps.append((r[i] - r[j]) * np.sign(p - 0.5))
                right.append(gaps[-1] > 0)
        if pairs:
            prompts.append(np.mean(pairs))
    return np.mean(prompts), np.mean(right), np.mean(gaps)


@pytest.mark.parametrize("options", [{}, {"center": 0.1}, {"margin": 0.5}, {"center": 0.01, "margin": 1.0}])
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


def test_the_order_of_the_responses_does_not_matter(batch, outputs, total):
    turn = jnp.array([2, 0, 1])
    turned = batch._replace(mask=batch.mask[:, turn], votes=batch.votes[:, turn][:, :, turn])
    options = {"center": 0.1, "margin": 0.5}
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


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_scores_of_empty_responses_do_not_matter(batch, outputs, total, poison):
    objective = functools.partial(objectives.reward_model, center=0.1)
    value_and_gradient = jax.value_and_grad(lambda x: total(objective(outputs._replace(scores=x), batch)))
    poisoned = value_and_gradient(outputs.scores.at[2].set(poison))
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(outputs.scores))


def test_a_batch_without_a_single_vote_is_finite(batch, outputs, total):
    silent = batch._replace(votes=jnp.zeros_like(batch.votes))
    value, gradient = jax.value_and_grad(
        lambda x: total(objectives.reward_model(outputs._replace(scores=x), silent, center=0.1))
    )(outputs.scores)
    assert value == 0
    assert not gradient.any()


def test_gradient(batch, outputs, total):
    with jax.enable_x64(True):
        scores = jnp.asarray(np.asarray(outputs.scores), jnp.float64)
        objective = functools.partial(objectives.reward_model, center=0.1, margin=0.3)
        check_grads(lambda x: total(objective(outputs._replace(scores=x), batch)), (scores,), order=1, modes=["rev"])


@pytest.mark.parametrize("bad", [{"center": -0.1}, {"margin": -1.0}])
def test_nonsense_is_refused(batch, outputs, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be at least 0"):
        objectives.reward_model(outputs, batch, **bad)


def test_missing_fields_are_named(batch, outputs):
    with pytest.raises(ValueError, match=r"batch\.votes is None"):
        objectives.reward_model(outputs, batch._replace(votes=None))
    with pytest.raises(ValueError, match=r"outputs\.scores is None"):
        objectives.reward_model(outputs._replace(scores=None), batch)
