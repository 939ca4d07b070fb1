"""The parts of control, each by worked numbers: ends and time limits, raters, schedules, and a planted reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import control
from rlhf_jax.control import ensemble as ensembles
from rlhf_jax.control import networks, segments
from rlhf_jax.control.advantages import advantages_and_returns


def key():
    return jax.random.key(0)  # a new one each time, as a key is used once


def direct(rewards, values, after, terminated, truncated, gamma, gae_lambda):
    """The definition, step by step from the back, with the next value asked for at every step."""
    advantages, later = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        end = terminated[t] or truncated[t] or t == len(rewards) - 1
        delta = rewards[t] + gamma * (0.0 if terminated[t] else after[t]) - values[t]
        later = advantages[t] = delta + (0.0 if end else gamma * gae_lambda * later)
    return advantages


def test_a_time_limit_has_a_future_and_an_end_has_none():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 1, 8))
    # What is seen after a step is what is seen before the next one, but for where an episode begins.
    terminated, truncated = np.zeros((2, 8), bool)
    terminated[2], truncated[5] = True, True
    after = np.append(values[0, 1:], 0.7)
    after[[2, 5]] = 100.0, -3.0  # the first of these must not be looked at
    step = control.Step(jnp.asarray(rewards), terminated[None], truncated[None], jnp.zeros((1, 8, 1)))
    advantages, returns = advantages_and_returns(
        jnp.asarray(rewards), jnp.asarray(values), jnp.asarray(after)[None], step, gamma=0.9, gae_lambda=0.8
    )
    wanted = direct(rewards[0], values[0], after, terminated, truncated, 0.9, 0.8)
    np.testing.assert_allclose(advantages[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(returns[0], wanted + values[0], rtol=1e-5)


def test_an_episode_begins_again_after_its_end_and_after_its_time():
    environment = control.line(limit=0.2, time_limit=3)
    at_the_edge = control.Episode(jnp.array([0.19, 1.0]), jnp.array(1))
    episode, step = control.advance(environment, key(), at_the_edge, jnp.array(2))
    assert step.terminated
    assert not step.truncated
    assert episode.time == 0
    assert step.after[0] > 0.2  # what the action led to, not where the next episode begins
    late = control.Episode(jnp.zeros(2), jnp.array(2))
    episode, step = control.advance(environment, key(), late, jnp.array(1))
    assert step.truncated
    assert not step.terminated
    assert episode.time == 0
    # An end in the last step is an end.
    _, step = control.advance(environment, key(), at_the_edge._replace(time=jnp.array(2)), jnp.array(2))
    assert (bool(step.terminated), bool(step.truncated)) == (True, False)


def test_hidden_ends_are_paid_for_and_not_told():
    environment = control.without_ends(control.line(limit=0.2), end_reward=-7.0)
    state, reward, terminated = environment.step(key(), jnp.array([0.19, 1.0]), jnp.array(1))
    assert not terminated
    assert abs(state[0]) <= 0.1  # where the line begins
    np.testing.assert_allclose(reward, 1 - 0.29 - 7, rtol=1e-5)


def two(first, second, n):
    """Pairs of one-step segments with these true rewards."""
    return (control.Segments(jnp.zeros((n, 1, 1)), jnp.zeros((n, 1, 1)), jnp.full((n, 1), r)) for r in (first, second))


def test_a_rater_errs_as_often_as_told_and_calls_a_tie_a_tie():
    n = 4000
    said = control.synthetic_preferences(key(), *two(1.0, 0.0, n), error_rate=0.1)
    assert set(np.unique(said)) == {0.0, 1.0}
    assert abs(float((said == 0).mean()) - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5
    np.testing.assert_array_equal(control.synthetic_preferences(key(), *two(0.0, 1.0, n), error_rate=0.0), 0)
    np.testing.assert_array_equal(control.synthetic_preferences(key(), *two(2.0, 2.0, n), error_rate=0.4), 0.5)


@pytest.mark.parametrize("labels", [0, 1, 350, 1400])
def test_a_schedule_spends_all_labels_and_ever_fewer(labels):
    schedule = control.label_schedule(labels, 60, first_share=0.25)
    assert schedule.sum() == labels
    assert schedule[0] == round(labels / 4)
    assert (schedule >= 0).all()
    assert schedule[1:31].sum() >= schedule[31:].sum()


def test_running_moments_are_those_of_everything():
    parts = np.random.default_rng(1).normal(3, 2, size=(3, 50, 2)).astype(np.float32)
    moments = networks.no_moments(2)
    for part in parts:
        moments = networks.seen(moments, jnp.asarray(part))
    np.testing.assert_allclose(moments.mean, parts.reshape(-1, 2).mean(0), rtol=1e-3)
    np.testing.assert_allclose(moments.variance, parts.reshape(-1, 2).var(0), rtol=1e-3)


def test_comparisons_stop_at_their_room():
    room = segments.no_comparisons(3, 1, 1, 1, members=2)
    first, second = two(1.0, 0.0, 2)
    one = segments.add(key(), room, first, second, jnp.array([1.0, 0.0]), jnp.array(1))
    assert (int(one.number), one.preferences.tolist()) == (1, [1.0, 0.0, 0.0])
    first, second = two(2.0, 3.0, 2)
    full = segments.add(key(), one, first, second, jnp.array([0.5, 0.5]), jnp.array(2))
    full = segments.add(key(), full, first, second, jnp.array([1.0, 1.0]), jnp.array(2))
    assert (int(full.number), full.preferences.tolist()) == (3, [1.0, 0.5, 0.5])
    assert full.first.rewards[:, 0].tolist() == [1.0, 2.0, 2.0]


def test_a_planted_reward_is_found_from_sums_over_segments():
    """Only sums over five steps are compared, a tenth of them wrongly: the reward of single steps comes back."""
    config = control.PreferenceConfig(segment=5, hidden=(16,), learning_rate=1e-2, batch=32)
    for_seen, for_acts, for_pairs, for_rater, for_rows, for_start, for_fit, fresh = jax.random.split(key(), 8)
    observations, actions = jax.random.normal(for_seen, (200, 5, 2)), jax.random.normal(for_acts, (200, 5, 1))
    rewards = observations[..., 0] - actions[..., 0]
    pairs = control.random_pairs(for_pairs, control.Segments(observations, actions, rewards), 300)
    said = segments.no_comparisons(400, 5, 2, 1, members=config.members)
    preferences = control.synthetic_preferences(for_rater, *pairs, error_rate=0.1)
    said = segments.add(for_rows, said, *pairs, preferences, jnp.array(300))
    moments = networks.no_moments(2)
    ensemble = ensembles.start(for_start, 2, 1, config)
    fit = jax.jit(lambda k, e: ensembles.fit(k, e, moments, said, config, updates=200))
    ensemble, figures = fit(for_fit, ensemble)
    assert figures["reward_loss"] < np.log(2)
    new = jax.random.normal(fresh, (500, 3))
    found = ensembles.member_rewards(ensemble, moments, new[:, :2], new[:, 2:])
    assert found.shape == (3, 500)
    planted = new[:, 0] - new[:, 2]
    for member in found:
        assert np.corrcoef(member, planted)[0, 1] > 0.9
    # A member learns from what its bootstrap sample holds, and a third of the comparisons is outside it.
    assert 0.25 < float((said.weights[:300] == 0).mean()) < 0.48


def test_what_errors_allow_is_the_likelihood_of_the_paper():
    """Errors of 5% are answers of which 10% are drawn at random."""
    apart = jnp.linspace(-30, 30, 13)
    wanted = 0.9 * jax.nn.sigmoid(apart) + 0.1 * 0.5
    np.testing.assert_allclose(jax.nn.sigmoid(ensembles.doubted(apart, 0.05)), wanted, rtol=1e-5)
    np.testing.assert_array_equal(ensembles.doubted(apart, 0.0), apart)


def test_the_most_disputed_pairs_are_asked_first():
    """Two members that agree on segments of the first action, and not on those of the second."""
    weight = jnp.array([[[0.0], [1.0], [1.0]], [[0.0], [1.0], [-1.0]]])
    members = [(weight, jnp.zeros((2, 1)))]
    ensemble = ensembles.Ensemble(members, (), jnp.zeros(2))
    which = jnp.array([0, 0, 0, 1, 1, 1])
    rows = control.Segments(
        jnp.zeros((6, 1, 1)), jax.nn.one_hot(which, 2)[:, None] * jnp.arange(1.0, 7)[:, None, None], jnp.zeros((6, 1))
    )
    pairs = control.disputed_pairs(key(), ensemble, networks.no_moments(1), rows, 2, candidates=20)
    disputes = jax.nn.sigmoid(ensembles.differences(ensemble, networks.no_moments(1), *pairs)).var(0)
    assert disputes[0] >= disputes[1] > 0.1
    assert (pairs.first.actions[..., 1] + pairs.second.actions[..., 1] > 0).all()


def test_a_pair_is_two_segments():
    rows = control.Segments(jnp.arange(3.0)[:, None, None], jnp.zeros((3, 1, 1)), jnp.zeros((3, 1)))
    pairs = control.random_pairs(key(), rows, 50)
    assert (pairs.first.observations != pairs.second.observations).all()
    with pytest.raises(ValueError, match="a pair takes two segments, found 1"):
        control.random_pairs(key(), segments.take(rows, jnp.array([0])), 1)


def test_a_rollout_that_is_no_whole_number_of_segments_is_refused():
    step = control.Step(*[jnp.zeros((1, 7))] * 3, jnp.zeros((1, 7, 2)))
    rollout = control.Rollout(jnp.zeros((1, 7, 2)), jnp.zeros((1, 7), int), jnp.zeros((1, 7)), step)
    with pytest.raises(ValueError, match="7 steps do not part into segments of 5"):
        control.cut(control.line(), rollout, 5)
