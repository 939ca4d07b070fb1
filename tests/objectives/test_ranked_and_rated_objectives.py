"""Reward models on rankings and on ratings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives
from rlhf_jax.data.layouts.rankings import parse_ranking
from rlhf_jax.losses.checks import UnusualHyperparameter

VOTES = jnp.array([[0.0, 4.0, 3.0], [0.0, 0.0, 1.0], [1.0, 3.0, 0.0]])  # counts 1.75, 0.25, 1: the order is 0, 2, 1


@pytest.fixture
def ranked(batch):
    """The order of each prompt: 0, 2, 1; then 1, 2 with the first response not compared; then nothing."""
    second = jnp.zeros((3, 3)).at[1, 2].set(3.0).at[2, 1].set(1.0)
    return batch._replace(votes=jnp.stack([VOTES, second, VOTES]))


@pytest.fixture
def rated(batch):
    return batch._replace(rating=jnp.array([[1.0, 5.0, 3.0], [2.0, 4.0, 4.0], [5.0, 5.0, 5.0]]))


@pytest.mark.parametrize(("ranks", "orders"), [([2, 1, 3], [(1, 0, 2)]), ([1, 2, 2], [(0, 1, 2), (0, 2, 1)])])
def test_a_row_with_a_ranking_is_learned_in_its_order_and_a_tie_in_both(outputs, batch, ranks, orders):
    row = {"prompt": "P", "responses": ["x", "y", "z"], "ranking": ranks}
    votes = jnp.broadcast_to(parse_ranking(row, "r:1").votes, (3, 3, 3))
    loss = objectives.plackett_luce(outputs, batch._replace(votes=votes))
    s = np.asarray(outputs.scores[0], np.float64)
    each = [sum(np.log(np.exp(s[list(order[k:])]).sum()) - s[order[k]] for k in range(3)) for order in orders]
    np.testing.assert_allclose(loss.values[0], np.mean(each), rtol=1e-5)
    # As pairs it is the mean of three comparisons, in which a tie is half a vote for either.
    pairs = objectives.reward_model(outputs, batch._replace(votes=votes))
    counted = np.asarray(pairs.mask[0])
    by_hand = []
    for i, j in itertools.combinations(range(3), 2):
        share = 0.5 + 0.5 * np.sign(ranks[j] - ranks[i])
        by_hand.append(share * np.logaddexp(0, s[j] - s[i]) + (1 - share) * np.logaddexp(0, s[i] - s[j]))
    np.testing.assert_allclose(np.asarray(pairs.values[0])[counted], by_hand, rtol=1e-5)


def test_the_ranking_by_hand(ranked, outputs, total):
    loss = objectives.plackett_luce(outputs, ranked)
    r = np.asarray(outputs.scores, np.float64)
    expected = np.zeros(2)
    for prompt, order in enumerate([(0, 2, 1), (1, 2)]):
        s = r[prompt, list(order)]
        expected[prompt] = sum(np.log(np.exp(s[k:]).sum()) - s[k] for k in range(len(s)))
    np.testing.assert_allclose(loss.values[:2], expected, rtol=1e-5)
    np.testing.assert_array_equal(loss.mask, [True, True, False])
    np.testing.assert_allclose(total(loss), expected.mean(), rtol=1e-5)
    right = [r[0, 0] > r[0, 2], r[0, 0] > r[0, 1], r[0, 2] > r[0, 1], r[1, 1] > r[1, 2]]
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["accuracy"]), np.mean(right), rtol=1e-6)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["reward_mean"]), r[:2].mean(), rtol=1e-5)


def test_a_pair_is_that_of_the_reward_model_with_a_hard_label(ranked, outputs, total):
    mask = ranked.mask.at[:, 2].set(False)  # two responses are left of three
    votes = jnp.array([[0.0, 3.0, 9.0], [1.0, 0.0, 9.0], [9.0, 9.0, 0.0]])
    soft = ranked._replace(mask=mask, votes=jnp.stack([votes] * 3))
    hard = soft._replace(votes=jnp.where(soft.votes > jnp.swapaxes(soft.votes, 1, 2), 1.0, 0.0))
    np.testing.assert_allclose(
        total(objectives.plackett_luce(outputs, soft, center=0.05)),
        total(objectives.reward_model(outputs, hard, center=0.05)),
        rtol=1e-6,
    )


def test_equal_counts_are_no_order(ranked, outputs, total):
    """Both orders of the tied two, half each; with K = 2, half a vote for either."""
    tied = jnp.array([[0.0, 2.0, 2.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])  # 1 and 2 lose alike to 0
    batch = ranked._replace(votes=jnp.stack([tied] * 3))
    loss = objectives.plackett_luce(outputs, batch)
    both = jnp.stack([losses.plackett_luce(outputs.scores[:2][:, np.array(order)]) for order in ([0, 1, 2], [0, 2, 1])])
    np.testing.assert_allclose(loss.values[:2], both.mean(0), rtol=1e-6)
    assert losses.masked_sum(jnp.ones((3, 3, 3)), loss.metrics["accuracy"][1]) == 4, "two pairs of either prompt"

    pair = ranked._replace(mask=ranked.mask.at[:, 2].set(False), votes=jnp.ones((3, 3, 3)))
    np.testing.assert_allclose(
        total(objectives.plackett_luce(outputs, pair)), total(objectives.reward_model(outputs, pair)), rtol=1e-6
    )


def test_counts_that_are_equal_but_for_rounding_are_equal(ranked, outputs):
    """1/3 + 2/3 of the one, 1/2 + 1/2 of the others: a float may see a difference, a ranking may not."""
    votes = jnp.array([[0.0, 0.1, 0.2], [0.2, 0.0, 0.1], [0.1, 0.2, 0.0]])  # a cycle, so that all counts are 1
    loss = objectives.plackett_luce(outputs, ranked._replace(votes=jnp.stack([votes] * 3)))
    assert not loss.metrics["accuracy"][1].any()


@pytest.mark.parametrize("turn", list(itertools.permutations(range(3))))
def test_the_order_in_the_batch_does_not_matter(ranked, outputs, total, turn):
    turn = jnp.array(turn)
    turned = ranked._replace(mask=ranked.mask[:, turn], votes=ranked.votes[:, turn][:, :, turn])
    np.testing.assert_allclose(
        total(objectives.plackett_luce(outputs._replace(scores=outputs.scores[:, turn]), turned, center=0.05)),
        total(objectives.plackett_luce(outputs, ranked, center=0.05)),
        rtol=1e-6,
    )


def test_more_votes_change_nothing_but_the_order_they_make(ranked, outputs, total):
    more = ranked._replace(votes=ranked.votes * 7)
    assert total(objectives.plackett_luce(outputs, more)) == total(objectives.plackett_luce(outputs, ranked))


def test_learning_brings_the_scores_into_order(ranked, outputs, total):
    scores = jnp.zeros((3, 3))
    gradient = jax.jit(jax.grad(lambda x: total(objectives.plackett_luce(outputs._replace(scores=x), ranked))))
    for _ in range(20):
        scores = scores - gradient(scores)
    assert scores[0, 0] > scores[0, 2] > scores[0, 1]
    assert scores[1, 1] > scores[1, 2]
    assert scores[1, 0] == 0, "not compared with anything, so not moved"
    loss = objectives.plackett_luce(outputs._replace(scores=scores), ranked)
    assert losses.masked_mean(*loss.metrics["accuracy"]) == 1


def test_only_the_centring_sees_a_common_shift(ranked, outputs, total):
    shifted = outputs._replace(scores=outputs.scores + 3)
    plain, centred = (functools.partial(objectives.plackett_luce, center=c) for c in (0.0, 0.1))
    np.testing.assert_allclose(total(plain(shifted, ranked)), total(plain(outputs, ranked)), rtol=1e-5)
    assert total(centred(shifted, ranked)) > total(centred(outputs, ranked)) + 1


def test_equal_scores_are_half_right(ranked, outputs):
    loss = objectives.plackett_luce(outputs._replace(scores=jnp.zeros((3, 3))), ranked)
    assert losses.masked_mean(*loss.metrics["accuracy"]) == 0.5


def test_ratings_by_hand(rated, outputs, total):
    loss = objectives.likert(outputs, rated, mean=3.0, std=1.5)
    r, rating = np.asarray(outputs.scores, np.float64)[:2], np.asarray(rated.rating)[:2]
    np.testing.assert_allclose(total(loss), ((r - (rating - 3) / 1.5) ** 2).mean(), rtol=1e-5)
    error = np.abs(3 + 1.5 * r - rating).mean()
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["error"]), error, rtol=1e-5)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["reward_mean"]), r.mean(), rtol=1e-5)


def test_scores_that_are_the_ratings_cost_nothing(rated, outputs, total):
    loss = objectives.likert(outputs._replace(scores=(rated.rating - 3) / 1.5), rated, mean=3.0, std=1.5)
    np.testing.assert_allclose(total(loss), 0, atol=1e-12)


def test_whole_number_ratings_are_ratings(rated, outputs, total):
    whole = rated._replace(rating=rated.rating.astype(jnp.int32))
    assert total(objectives.likert(outputs, whole, mean=3.3)) == total(objectives.likert(outputs, rated, mean=3.3))


@pytest.fixture(params=["plackett_luce", "likert"])
def objective(request):
    options = {"plackett_luce": {"center": 0.05}, "likert": {"mean": 3.0, "std": 1.5}}[request.param]
    return functools.partial(getattr(objectives, request.param), **options)


@pytest.fixture
def labelled(ranked, rated):
    return ranked._replace(rating=rated.rating)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_empty_responses_do_not_matter(labelled, outputs, total, objective, poison):
    batch = labelled._replace(mask=labelled.mask.at[0, 1].set(False))

    def value_and_gradient(outputs, batch):
        return jax.value_and_grad(lambda x: total(objective(outputs._replace(scores=x), batch)))(outputs.scores)

    empty = ~batch.mask.any(-1)
    poisoned = value_and_gradient(
        outputs._replace(scores=jnp.where(empty, poison, outputs.scores)),
        batch._replace(
            rating=jnp.where(empty, poison, batch.rating),
            votes=jnp.where(empty[:, :, None] | empty[:, None, :], poison, batch.votes),
        ),
    )
    clean = value_and_gradient(outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    assert clean[1].any()
    assert not clean[1][empty].any()


def test_a_batch_in_which_nothing_counts_is_finite(labelled, outputs, total, objective):
    for batch in (labelled._replace(mask=jnp.zeros_like(labelled.mask)), labelled._replace(votes=0 * labelled.votes)):
        loss = functools.partial(objective, batch=batch)
        value, gradient = jax.value_and_grad(lambda x, f=loss: total(f(outputs._replace(scores=x))))(outputs.scores)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()
        if not loss(outputs).mask.any():
            assert value == 0
            assert not gradient.any()


def test_no_gradient_flows_into_what_people_said(labelled, outputs, total, objective):
    def loss(said):
        return total(objective(outputs, labelled._replace(**said)))

    gradients = jax.grad(loss)({"votes": labelled.votes, "rating": labelled.rating})
    assert not any(g.any() for g in gradients.values())


def test_gradient(labelled, outputs, total, objective):
    with jax.enable_x64(True):
        scores = jnp.asarray(np.asarray(outputs.scores), jnp.float64)
        check_grads(lambda x: total(objective(outputs._replace(scores=x), labelled)), (scores,), order=1, modes=["rev"])


def test_missing_fields_are_named(batch, outputs):
    with pytest.raises(ValueError, match=r"batch\.votes is None"):
        objectives.plackett_luce(outputs, batch._replace(votes=None))
    with pytest.raises(ValueError, match=r"batch\.rating is None"):
        objectives.likert(outputs, batch)
    for name in ("plackett_luce", "likert"):
        with pytest.raises(ValueError, match=r"outputs\.scores is None"):
            getattr(objectives, name)(outputs._replace(scores=None), batch)


def test_nonsense_is_refused(rated, outputs):
    with pytest.raises(ValueError, match="center must be at least 0"):
        objectives.plackett_luce(outputs, rated, center=-0.1)
    with pytest.raises(ValueError, match="std must be above 0"):
        objectives.likert(outputs, rated, std=0.0)
    with pytest.raises(ValueError, match="two responses or more, found groups of 1"):
        objectives.plackett_luce(outputs, jax.tree.map(lambda x: x[:, :1], rated))


def test_unusual_values_are_warned_of(rated, outputs):
    with pytest.warns(UnusualHyperparameter, match=r"center is 0\.5, outside the usual 0 to 0\.1"):
        objectives.plackett_luce(outputs, rated, center=0.5)
