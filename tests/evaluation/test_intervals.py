"""Intervals: numbers worked by hand, and how often they hold the truth when the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_jax.evaluation import bootstrap_mean, bootstrap_pairs, wilson


def test_wilson_worked_by_hand():
    # p = 8/10, z = 1.96: centre (0.8 + 0.19208) / 1.38416, half 1.96 sqrt(0.016 + 0.0096040) / 1.38416
    z = 1.959964
    centre = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.016 + z * z / 400) / (1 + z * z / 10)
    assert wilson(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_wilson_stays_inside_at_the_ends():
    low, high = wilson(0, 20)
    assert low == 0.0
    assert 0.1 < high < 0.2
    assert wilson(20, 20) == pytest.approx((1 - high, 1.0))
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_refuses_nonsense():
    with pytest.raises(ValueError, match="successes must lie"):
        wilson(11, 10)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 10, confidence=95)


def test_bootstrap_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap_mean(values, seed=1) == (low, high)


def test_bootstrap_pairs_covers_where_independent_pairs_do_not():
    # Every item has an effect of its own, shared by all its pairs; the true mean over pairs is 0.
    covered, naive = 0, 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        effect = rng.normal(size=60)
        pairs = np.array([(i, j) for i in range(60) for j in rng.choice(60, 12) if i != j])
        values = effect[pairs].sum(axis=1)
        low, high = bootstrap_pairs(values, pairs, seed=trial, draws=200)
        covered += low <= 0 <= high
        half = 1.96 * values.std() / math.sqrt(len(values))
        naive += abs(values.mean()) <= half
    assert covered >= 52  # 95% of 60 is 57
    assert naive < 35


def test_bootstrap_pairs_is_a_function_of_its_seed():
    rng = np.random.default_rng(0)
    pairs, values = rng.integers(0, 30, (100, 2)), rng.random(100)
    assert bootstrap_pairs(values, pairs, seed=4) == bootstrap_pairs(values, pairs, seed=4)
    assert bootstrap_pairs(values, pairs, seed=4) != bootstrap_pairs(values, pairs, seed=5)


def test_bootstrap_pairs_with_a_single_pair():
    assert bootstrap_pairs([1.0], [[3, 7]], seed=0) == (1.0, 1.0)


@pytest.mark.parametrize(("values", "pairs"), [([], np.zeros((0, 2), int)), ([1.0], [[0, 1], [1, 2]])])
def test_bootstrap_pairs_refuses_wrong_shapes(values, pairs):
    with pytest.raises(ValueError, match=r"pairs \[m, 2\]"):
        bootstrap_pairs(values, pairs, seed=0)


def test_pairs_that_share_no_response_are_independent():
    """The interval is that of as many independent values; drawing responses would make it 1.7 times as wide."""
    values = (np.arange(400) % 4 > 0).astype(float)
    pairs = np.random.default_rng(0).permutation(800).reshape(400, 2)
    low, high = bootstrap_pairs(values, pairs, seed=0)
    wanted = 2 * 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert high - low == pytest.approx(wanted, rel=0.1)
    shared = np.concatenate([pairs, pairs[:1]])  # one response in two pairs: responses are drawn
    low, high = bootstrap_pairs(np.append(values, 1.0), shared, seed=0)
    assert high - low == pytest.approx(1.7 * wanted, rel=0.1)
