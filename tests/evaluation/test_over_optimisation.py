"""Fitted curves: coefficients that were planted, peaks worked by hand, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_jax.evaluation import fit_over_optimisation
from rlhf_jax.losses import best_of_n_kl


def gold_at(kl, a, b, kind):
    d = np.sqrt(np.asarray(kl, float))
    return d * (a - b * (d if kind == "best_of_n" else np.log(d)))


BOTH = pytest.mark.parametrize("kind", ["best_of_n", "rl"])


@BOTH
@pytest.mark.parametrize(("a", "b"), [(1.5, 0.4), (0.3, -0.2), (-0.5, 0.1), (40.0, 3.0)])
def test_planted_coefficients_are_recovered(kind, a, b):
    kl = np.array([0.1, 0.5, 2.0, 7.0, 20.0, 60.0])
    gold = gold_at(kl, a, b, kind)
    found = fit_over_optimisation(kl, gold, kind=kind)
    assert (found.a, found.b) == pytest.approx((a, b), rel=1e-9)
    assert found.residual == pytest.approx(0, abs=1e-9)
    assert found.r2 == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.curve(kl), gold, rtol=1e-9, atol=1e-9)


def test_peaks_by_hand():
    # d (3 - d) through d = 1, 2, 3: highest at 3/2, where it is 9/4
    found = fit_over_optimisation([1, 4, 9], [2, 2, 0], kind="best_of_n")
    assert (found.peak_d, found.peak_kl, found.peak_gold) == pytest.approx((1.5, 2.25, 2.25))
    # d (2 - log d): the derivative 2 - log d - 1 is 0 at d = e, where it is e
    kl = np.exp([0.0, 1.0, 2.0, 4.0])
    found = fit_over_optimisation(kl, gold_at(kl, 2, 1, "rl"), kind="rl")
    assert (found.peak_d, found.peak_kl, found.peak_gold) == pytest.approx((math.e, math.e**2, math.e))


@BOTH
def test_the_peak_is_the_highest_point_of_the_curve(kind):
    kl = np.array([0.2, 1.0, 5.0, 9.0])
    found = fit_over_optimisation(kl, gold_at(kl, 0.8, 0.3, kind), kind=kind)
    many = np.linspace(0, 4 * found.peak_kl, 100_001)
    curve = found.curve(many)
    assert many[curve.argmax()] == pytest.approx(found.peak_kl, rel=1e-2)
    assert curve.max() == pytest.approx(found.peak_gold, rel=1e-6)
    assert found.peak_gold == pytest.approx(float(found.curve(found.peak_kl)), rel=1e-12)


@BOTH
@pytest.mark.parametrize("b", [0.0, -0.5])
def test_what_only_rises_has_no_peak(kind, b):
    kl = np.array([1.0, 2.0, 4.0, 8.0])
    found = fit_over_optimisation(kl, gold_at(kl, 1.0, b, kind) if b else np.zeros(4), kind=kind)
    assert found.b <= 0
    assert (found.peak_d, found.peak_kl, found.peak_gold) == (None, None, None)


def test_best_of_n_that_only_falls_has_no_peak():
    kl = np.array([1.0, 2.0, 4.0])
    assert fit_over_optimisation(kl, gold_at(kl, -1, 0.5, "best_of_n"), kind="best_of_n").peak_d is None
    # log d lets RL rise a little first, however small a is
    falls = fit_over_optimisation(kl, gold_at(kl, -1, 0.5, "rl"), kind="rl")
    assert falls.peak_d == pytest.approx(math.exp(-3))


def test_a_peak_beyond_any_float_is_none():
    kl = np.array([1.0, 2.0, 4.0])
    assert fit_over_optimisation(kl, gold_at(kl, 1.0, 1e-4, "rl"), kind="rl").peak_kl is None


@BOTH
def test_with_noise_it_is_the_best_of_its_form(kind):
    rng = np.random.default_rng(0)
    kl = np.linspace(0.5, 40, 60)
    gold = gold_at(kl, 1.2, 0.25, kind) + 0.1 * rng.normal(size=60)
    found = fit_over_optimisation(kl, gold, kind=kind)
    assert (found.a, found.b) == pytest.approx((1.2, 0.25), abs=0.05)
    assert found.residual == pytest.approx(0.1, rel=0.3)
    assert 0.5 < found.r2 < 1

    def squares(a, b):
        return np.square(gold - gold_at(kl, a, b, kind)).sum()

    least = squares(found.a, found.b)
    assert least == pytest.approx(60 * found.residual**2)
    assert found.r2 == pytest.approx(1 - least / (60 * gold.var()))
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert squares(found.a + da, found.b + db) > least


@BOTH
def test_each_form_fits_its_own_data_better_than_the_other_does(kind):
    kl = np.linspace(0.5, 40, 30)
    gold = gold_at(kl, 1.2, 0.25, kind)
    other = "rl" if kind == "best_of_n" else "best_of_n"
    assert fit_over_optimisation(kl, gold, kind=other).residual > 0.01


def test_points_at_kl_0_change_nothing():
    kl, gold = [1.0, 4.0, 9.0], [2.0, 2.5, 0.0]
    assert fit_over_optimisation([0.0, *kl], [0.0, *gold], kind="rl") == fit_over_optimisation(kl, gold, kind="rl")


@BOTH
def test_the_unit_of_gold_scales_the_curve_and_leaves_its_peak(kind):
    kl, gold = [1.0, 4.0, 9.0, 12.0], np.array([2.0, 2.5, 1.0, -1.0])
    one, ten = (fit_over_optimisation(kl, unit * gold, kind=kind) for unit in (1, 10))
    assert (ten.a, ten.b, ten.peak_gold) == pytest.approx((10 * one.a, 10 * one.b, 10 * one.peak_gold))
    assert (ten.peak_kl, ten.r2) == pytest.approx((one.peak_kl, one.r2))


@BOTH
def test_very_small_and_very_large_kls_are_fitted_as_well(kind):
    for unit in (1e-12, 1e6):
        kl = unit * np.array([1.0, 2.0, 5.0])
        found = fit_over_optimisation(kl, gold_at(kl, 1.0, 0.5, kind), kind=kind)
        assert (found.a, found.b) == pytest.approx((1.0, 0.5), rel=1e-6)


@BOTH
def test_a_gold_score_that_never_moves(kind):
    found = fit_over_optimisation([1, 2, 3], [0, 0, 0], kind=kind)
    assert (found.a, found.b, found.residual) == pytest.approx((0, 0, 0))
    assert found.r2 is None


def test_the_kl_of_best_of_n_goes_in():
    n = [1, 2, 4, 16, 64]
    kl = np.array([best_of_n_kl(k) for k in n])
    found = fit_over_optimisation(kl, gold_at(kl, 1.0, 0.3, "best_of_n"), kind="best_of_n")
    assert (found.a, found.b) == pytest.approx((1.0, 0.3), rel=1e-6)


def test_the_curve_has_the_shape_of_its_argument_and_starts_at_0():
    found = fit_over_optimisation([1, 4, 9], [2, 2, 0], kind="rl")
    assert found.curve(0.0) == 0
    assert found.curve(np.ones((2, 3))).shape == (2, 3)
    with pytest.raises(ValueError, match=r"kl must be finite and at least 0, found -1\.0"):
        found.curve([1.0, -1.0])


@pytest.mark.parametrize(
    ("kl", "gold", "kind", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "bon", "kind='bon': expected one of"),
        ([1, 2, 3], [1, 2], "rl", r"expected kl \[n\] and gold \[n\], found \(3,\) and \(2,\)"),
        ([-0.1, 1, 2, 3], [0, 1, 2, 3], "rl", r"at least 0, found -0\.1"),
        ([np.nan, 1, 2, 3], [0, 1, 2, 3], "rl", "kl must be finite"),
        ([1, 2, 3], [1, np.inf, 3], "rl", "gold must be finite, found inf"),
        ([0, 1, 2], [0, 1, 2], "rl", "at least 3 different KLs above 0, found 2"),
        ([1, 2, 2, 2], [1, 2, 2, 2], "best_of_n", "found 2"),
        ([0, 1, 2, 3], [0.5, 1, 2, 3], "rl", r"gold at KL 0 must be 0, found 0\.5: subtract"),
    ],
)
def test_nonsense_is_refused(kl, gold, kind, message):
    with pytest.raises(ValueError, match=message):
        fit_over_optimisation(kl, gold, kind=kind)
