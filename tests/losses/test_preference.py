import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses
from rlhf_jax.losses.preference import MAX_MEAN_LOGPROB

RNG = np.random.default_rng(0)
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = LOGPROBS = tuple(-20 + 5 * RNG.normal(size=(4, 3, 2)))
SHARE = RNG.uniform(0.05, 0.45, size=(3, 2))
D = 0.3 * ((CHOSEN - REF_CHOSEN) - (REJECTED - REF_REJECTED))  # the margin of the implicit rewards at beta 0.3

WITH_REFERENCE = {
    "dpo": functools.partial(losses.dpo, beta=0.3),
    "conservative dpo": functools.partial(losses.dpo, beta=0.3, label_smoothing=0.2),
    "robust dpo": functools.partial(losses.robust_dpo, beta=0.3, label_smoothing=0.2),
    "ipo": functools.partial(losses.ipo, beta=0.3),
    "slic": functools.partial(losses.slic, beta=0.3),
}


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def test_worked_numbers_with_a_reference():
    pair = (-8.0, -14.0, -10.0, -12.0)  # the policy is 2 nats up on the chosen, 2 down on the rejected: a gap of 4
    fall = np.log1p(np.exp(-2.0))  # -log sigmoid(0.5 * 4) = 0.1269
    np.testing.assert_allclose(losses.implicit_reward(-8.0, -10.0, beta=0.5), 1.0)
    np.testing.assert_allclose(losses.dpo(*pair, beta=0.5), fall, rtol=1e-6)
    np.testing.assert_allclose(losses.dpo(*pair, beta=0.5, label_smoothing=0.25), fall + 0.25 * 2, rtol=1e-6)
    np.testing.assert_allclose(losses.robust_dpo(*pair, beta=0.5, label_smoothing=0.25), fall - 0.5 * 2, rtol=1e-6)
    np.testing.assert_allclose(losses.ipo(*pair, beta=0.5), 9.0)  # (4 - 1)^2
    np.testing.assert_allclose(losses.slic(*pair, beta=0.125), 0.5)  # 1 - 4 / 8
    np.testing.assert_allclose(losses.slic(*pair, beta=0.5, delta=3.0), 1.0)  # 3 - 2


def test_worked_numbers_without_a_reference():
    np.testing.assert_allclose(losses.cpo(-8.0, -12.0, beta=0.5), np.log1p(np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(losses.simpo(-1.0, -2.0, beta=3.0, margin=1.0), np.log1p(np.exp(-2.0)), rtol=1e-6)
    # odds 4 and 1/4: an odds ratio of 16, so sigmoid of its log is 16/17
    np.testing.assert_allclose(losses.orpo(np.log(0.8), np.log(0.2), weight=0.5), 0.5 * np.log(17 / 16), rtol=1e-5)


def test_equal_pairs_cost_log_2():
    for loss in (
        losses.dpo(CHOSEN, CHOSEN, REF_CHOSEN, REF_CHOSEN, beta=0.1),
        losses.dpo(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=0.1),  # the policy is still the reference
        losses.robust_dpo(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=0.1, label_smoothing=0.3),
        losses.cpo(CHOSEN, CHOSEN, beta=0.1),
        losses.simpo(CHOSEN, CHOSEN, beta=2.0, margin=0.0),
        losses.orpo(CHOSEN, CHOSEN, weight=1.0),
    ):
        np.testing.assert_allclose(loss, np.full((3, 2), np.log(2)), rtol=1e-6)


def test_dpo_against_numpy():
    np.testing.assert_allclose(losses.dpo(*LOGPROBS, beta=0.3), -log_sigmoid(D), rtol=1e-5)
    smoothed = -(1 - SHARE) * log_sigmoid(D) - SHARE * log_sigmoid(-D)
    np.testing.assert_allclose(losses.dpo(*LOGPROBS, beta=0.3, label_smoothing=SHARE), smoothed, rtol=1e-5)


def test_dpo_is_bradley_terry_on_implicit_rewards():
    rewards = (
        losses.implicit_reward(CHOSEN, REF_CHOSEN, beta=0.3),
        losses.implicit_reward(REJECTED, REF_REJECTED, beta=0.3),
    )
    same = losses.bradley_terry(*rewards, preference=1 - SHARE)
    np.testing.assert_allclose(losses.dpo(*LOGPROBS, beta=0.3, label_smoothing=SHARE), same, rtol=1e-6)


def test_the_gradient_of_dpo_weighs_a_pair_by_how_wrong_it_is():
    gradient = jax.grad(lambda c: losses.dpo(c, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.3).sum())(CHOSEN)
    np.testing.assert_allclose(gradient, -0.3 / (1 + np.exp(D)), rtol=1e-5)


def test_half_smoothed_labels_do_not_say_which_is_better():
    swapped = (REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN)
    half = [losses.dpo(*pair, beta=0.3, label_smoothing=0.5) for pair in (LOGPROBS, swapped)]
    np.testing.assert_allclose(*half, rtol=1e-5)
    with_reference = losses.dpo(*LOGPROBS, beta=0.3, label_smoothing=1.0)  # wholly wrong labels: the other way round
    np.testing.assert_allclose(with_reference, losses.dpo(*swapped, beta=0.3), rtol=1e-5)


def test_conservative_dpo_is_least_at_the_smoothed_odds():
    at = np.log(0.8 / 0.2) / 0.3
    gradient = jax.grad(lambda gap: losses.dpo(gap, 0.0, 0.0, 0.0, beta=0.3, label_smoothing=0.2))(at)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_robust_dpo_as_defined():
    one_way, other_way = -log_sigmoid(D), -log_sigmoid(-D)
    defined = ((1 - SHARE) * one_way - SHARE * other_way) / (1 - 2 * SHARE)
    got = losses.robust_dpo(*LOGPROBS, beta=0.3, label_smoothing=SHARE)
    np.testing.assert_allclose(got, defined, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.robust_dpo(*LOGPROBS, beta=0.3), one_way, rtol=1e-5)


def test_robust_dpo_over_flipped_labels_is_dpo_on_the_true_ones():
    swapped = (REJECTED, CHOSEN, REF_REJECTED, REF_CHOSEN)
    right, wrong = (losses.robust_dpo(*pair, beta=0.3, label_smoothing=SHARE) for pair in (LOGPROBS, swapped))
    mean = (1 - SHARE) * right + SHARE * wrong
    np.testing.assert_allclose(mean, losses.dpo(*LOGPROBS, beta=0.3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_ipo_is_least_where_the_gap_is_half_the_inverse_of_beta(beta):
    value, gradient = jax.value_and_grad(lambda gap: losses.ipo(gap, 0.0, 0.0, 0.0, beta=beta))(1 / (2 * beta))
    assert value == gradient == 0
    assert losses.ipo(1 / (2 * beta) + 1, 0.0, 0.0, 0.0, beta=beta) == pytest.approx(
        1, rel=1e-5
    )  # past it as before it
    assert losses.ipo(1 / (2 * beta) - 1, 0.0, 0.0, 0.0, beta=beta) == pytest.approx(1, rel=1e-5)


def test_slic_leaves_pairs_past_the_margin_alone():
    value_and_gradient = jax.value_and_grad(lambda gap: losses.slic(gap, 0.0, 0.0, 0.0, beta=0.5, delta=2.0))
    assert value_and_gradient(3.0) == (0.5, -0.5)
    assert value_and_gradient(4.5) == (0, 0)
    assert value_and_gradient(4.0) == (0, 0)


def test_simpo_is_dpo_on_means_without_a_reference_or_a_margin():
    nothing = np.zeros_like(CHOSEN)
    simpo = losses.simpo(CHOSEN / 9, REJECTED / 7, beta=2.0, margin=0.0)
    np.testing.assert_allclose(simpo, losses.dpo(CHOSEN / 9, REJECTED / 7, nothing, nothing, beta=2.0), rtol=1e-6)


def test_the_margin_of_simpo_is_in_units_of_reward():
    shifted = losses.simpo(CHOSEN + 0.75, REJECTED, beta=2.0, margin=1.5)
    np.testing.assert_allclose(shifted, losses.simpo(CHOSEN, REJECTED, beta=2.0, margin=0.0), rtol=1e-5)


def test_cpo_is_dpo_under_a_reference_that_likes_all_alike():
    alike = np.full_like(CHOSEN, -30.0)
    cpo = losses.cpo(CHOSEN, REJECTED, beta=0.3, label_smoothing=0.1)
    np.testing.assert_allclose(
        cpo, losses.dpo(CHOSEN, REJECTED, alike, alike, beta=0.3, label_smoothing=0.1), rtol=1e-5
    )


def test_the_weight_scales_orpo():
    once, thrice = (losses.orpo(CHOSEN / 20, REJECTED / 20, weight=w) for w in (1.0, 3.0))
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)
    assert not losses.orpo(CHOSEN / 20, REJECTED / 20, weight=0.0).any()


def test_orpo_against_numpy():
    p, q = np.exp(CHOSEN / 20), np.exp(REJECTED / 20)
    ratio = (p / (1 - p)) / (q / (1 - q))
    np.testing.assert_allclose(
        losses.orpo(CHOSEN / 20, REJECTED / 20, weight=0.7), 0.7 * np.log1p(1 / ratio), rtol=1e-5
    )


@pytest.mark.parametrize("chosen", [0.0, -1e-8, -1e-6, -1e-3, -1.0, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1e-8, -1e-6, -1e-3, -1.0, -1e4])
def test_orpo_is_finite_from_certain_to_impossible(chosen, rejected):
    value, slopes = jax.value_and_grad(functools.partial(losses.orpo, weight=1.0), argnums=(0, 1))(chosen, rejected)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(slope) for slope in slopes)
    assert slopes[0] <= 0 <= slopes[1]
    if rejected == 0.0:
        assert slopes[1] > 0, "a response that is certain can still be lowered"


def test_the_odds_join_smoothly_where_they_turn_straight(check_gradient):
    # Inputs in units of the bend, where steps of 1e-6 are small; beside it the curvature is one-sided.
    loss = lambda w, l: losses.orpo(w * -MAX_MEAN_LOGPROB, l * -MAX_MEAN_LOGPROB, weight=1.0)  # noqa: E731, E741
    check_gradient(loss, np.array([-0.0, -0.5, -1.5, -3.0]), np.full(4, -1.0), tolerance=1e-6)
    slope = jax.grad(loss)
    np.testing.assert_allclose(slope(-0.999, -2.0), slope(-1.001, -2.0), rtol=3e-3)


@pytest.mark.parametrize("name", WITH_REFERENCE)
@pytest.mark.parametrize("gap", [1e4, -1e4, 1e6, -1e6])
def test_huge_gaps_stay_finite(name, gap):
    value, gradient = jax.value_and_grad(lambda c: WITH_REFERENCE[name](c, 0.0, 0.0, 0.0))(gap)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_huge_gaps_stay_finite_without_a_reference(gap):
    for loss in (
        functools.partial(losses.cpo, rejected=0.0, beta=1.0, label_smoothing=0.1),
        functools.partial(losses.simpo, rejected_mean=0.0, beta=10.0, margin=1.0),
    ):
        value, gradient = jax.value_and_grad(loss)(gap)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_gradient_with_a_reference(check_gradient, name):
    check_gradient(WITH_REFERENCE[name], *LOGPROBS)


def test_gradient_in_the_labels(check_gradient):
    for loss in (losses.dpo, losses.robust_dpo):
        check_gradient(lambda *x, loss=loss: loss(*x[:4], beta=0.3, label_smoothing=x[4]), *LOGPROBS, SHARE)


def test_gradient_without_a_reference(check_gradient):
    check_gradient(functools.partial(losses.implicit_reward, beta=0.3), CHOSEN, REF_CHOSEN)
    check_gradient(functools.partial(losses.cpo, beta=0.3, label_smoothing=0.1), CHOSEN, REJECTED)
    check_gradient(functools.partial(losses.simpo, beta=2.0, margin=0.5), CHOSEN / 20, REJECTED / 20)
    check_gradient(functools.partial(losses.orpo, weight=0.5), CHOSEN / 20, REJECTED / 20)


@pytest.mark.parametrize("loss", [losses.dpo, losses.robust_dpo, losses.ipo, losses.slic])
@pytest.mark.parametrize("beta", [0.0, -0.1, float("nan")])
def test_a_beta_that_is_not_positive_is_refused(loss, beta):
    with pytest.raises(ValueError, match="beta must be above 0"):
        loss(*LOGPROBS, beta=beta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.implicit_reward(CHOSEN, REJECTED, beta=0.0), "beta must be above 0"),
        (lambda: losses.dpo(*LOGPROBS, beta=0.1, label_smoothing=-0.1), "label_smoothing must be at least 0"),
        (
            lambda: losses.dpo(*LOGPROBS, beta=0.1, label_smoothing=1.1),
            "label_smoothing must be at least 0 and at most",
        ),
        (lambda: losses.robust_dpo(*LOGPROBS, beta=0.1, label_smoothing=0.5), "label_smoothing must be below 0.5"),
        (lambda: losses.robust_dpo(*LOGPROBS, beta=0.1, label_smoothing=-0.1), "label_smoothing must be at least 0"),
        (lambda: losses.slic(*LOGPROBS, beta=0.1, delta=0.0), "delta must be above 0"),
        (lambda: losses.orpo(CHOSEN, REJECTED, weight=-0.1), "weight must be at least 0"),
        (lambda: losses.simpo(CHOSEN, REJECTED, beta=0.0, margin=0.0), "beta must be above 0"),
        (lambda: losses.simpo(CHOSEN, REJECTED, beta=1.0, margin=-0.1), "margin must be at least 0"),
        (lambda: losses.cpo(CHOSEN, REJECTED, beta=-1.0), "beta must be above 0"),
        (lambda: losses.cpo(CHOSEN, REJECTED, beta=0.1, label_smoothing=2.0), "label_smoothing must be at least 0"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_different_shapes_are_refused():
    short = CHOSEN[:, :1]
    for call in (
        lambda: losses.implicit_reward(short, REF_CHOSEN, beta=0.1),
        lambda: losses.dpo(short, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.1),
        lambda: losses.robust_dpo(CHOSEN, REJECTED, REF_CHOSEN, short, beta=0.1),
        lambda: losses.orpo(short, REJECTED, weight=1.0),
        lambda: losses.simpo(short, REJECTED, beta=1.0, margin=0.0),
        lambda: losses.cpo(CHOSEN, short, beta=0.1),
    ):
        with pytest.raises(AssertionError):
            call()


def test_weights_in_bfloat16_are_computed_in_float32():
    low = [jnp.asarray(x, jnp.bfloat16) for x in LOGPROBS]
    assert losses.dpo(*low, beta=0.1).dtype == jnp.float32
    assert losses.orpo(low[0], low[1], weight=0.1).dtype == jnp.float32
