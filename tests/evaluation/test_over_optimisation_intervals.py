"""Intervals of fitted curves: nothing to be unsure of, coverage, pairs of curves, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_jax.evaluation import fit_over_optimisation, over_optimisation_intervals

KL = np.array([0.2, 1.0, 3.0, 8.0, 16.0, 30.0])


def gold_at(kl, a, b, kind):
    d = np.sqrt(kl)
    return d * (a - b * (d if kind == "best_of_n" else np.log(d)))


def noisy(rng, kind, prompts=40, a=1.0, b=0.2):
    """Curves of prompts that differ in how much they gain, and noise of every measurement."""
    gains = rng.normal(a, 0.3, prompts)
    return gold_at(KL[:, None], gains, b, kind) + rng.normal(0, 0.3, (len(KL), prompts))


@pytest.mark.parametrize("kind", ["best_of_n", "rl"])
def test_prompts_that_are_alike_leave_no_doubt(kind):
    gold = np.repeat(gold_at(KL, 0.8, 0.3, kind)[:, None], 5, axis=1)
    found = over_optimisation_intervals(KL, gold, kind=kind, seed=0, draws=20)
    assert found.fit == fit_over_optimisation(KL, gold[:, 0], kind=kind)._replace(residual=found.fit.residual)
    for figure, interval in ((0.8, found.a_ci), (0.3, found.b_ci), (found.fit.peak_kl, found.peak_kl_ci)):
        assert interval == pytest.approx((figure, figure))


@pytest.mark.parametrize("kind", ["best_of_n", "rl"])
def test_the_intervals_cover_what_was_planted(kind):
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for i in range(30):
        found = over_optimisation_intervals(KL, noisy(rng, kind), kind=kind, seed=i, draws=64)
        held += [low <= x <= high for x, (low, high) in ((1.0, found.a_ci), (0.2, found.b_ci))]
    assert (held / 30 >= 0.8).all()


def test_a_kl_that_was_measured_is_resampled_with_its_prompts():
    rng = np.random.default_rng(1)
    gold = noisy(rng, "rl")
    apart = KL[:, None] * rng.uniform(0.2, 1.8, gold.shape)
    known = over_optimisation_intervals(apart.mean(1), gold, kind="rl", seed=0, draws=200)
    measured = over_optimisation_intervals(apart, gold, kind="rl", seed=0, draws=200)
    assert known.fit == measured.fit
    assert not np.array_equal(known.draws, measured.draws)


def test_curves_on_the_same_prompts_are_compared_in_pairs():
    gold = noisy(np.random.default_rng(2), "rl")
    d = np.sqrt(KL)[:, None]
    one, other = (over_optimisation_intervals(KL, x, kind="rl", seed=3, draws=50) for x in (gold, gold + 0.5 * d))
    np.testing.assert_allclose(other.draws - one.draws, [[0.5, 0.0]] * 50, atol=1e-12)


def test_a_peak_that_is_in_doubt_may_be_nowhere():
    rng = np.random.default_rng(4)
    gold = gold_at(KL, 1.0, 0.0, "best_of_n")[:, None] + rng.normal(0, 2.0, (len(KL), 10))
    low, high = over_optimisation_intervals(KL, gold, kind="best_of_n", seed=0, draws=200).peak_kl_ci
    assert low < high == math.inf


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match=r"gold \[n, P\]"):
        over_optimisation_intervals(KL, KL, kind="rl", seed=0)
    with pytest.raises(ValueError, match=r"gold \[n, P\]"):
        over_optimisation_intervals(KL[:-1], np.ones((len(KL), 3)), kind="rl", seed=0)
    with pytest.raises(ValueError, match="at least 3 different KLs"):
        over_optimisation_intervals([1.0, 1.0, 2.0], np.ones((3, 4)), kind="rl", seed=0)
