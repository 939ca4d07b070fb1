"""The best of n samples: by hand, against all subsets, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.evaluation import best_of_n_mean


def test_worked_by_hand():
    # Three pairs of the samples; the second has the highest proxy score, the third the lowest.
    assert best_of_n_mean([0.2, 0.9, 0.1], [3.0, 6.0, 0.0], 2) == pytest.approx((6 + 6 + 3) / 3)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_it_is_the_mean_over_all_subsets(n):
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 3, 7))
    every = [list(some) for some in itertools.combinations(range(7), n)]
    for row in range(3):
        best = [gold[row][some][proxy[row][some].argmax()] for some in every]
        assert best_of_n_mean(proxy[row], gold[row], n) == pytest.approx(np.mean(best))
    assert best_of_n_mean(proxy, gold, n).shape == (3,)


def test_one_is_the_mean_and_all_is_the_highest_by_the_proxy():
    proxy, gold = np.random.default_rng(1).normal(size=(2, 50))
    assert best_of_n_mean(proxy, gold, 1) == pytest.approx(gold.mean())
    assert best_of_n_mean(proxy, gold, 50) == gold[proxy.argmax()]


def test_a_proxy_that_says_nothing_gains_nothing_and_ties_are_broken_at_random():
    gold = np.array([4.0, 0.0, 1.0, 3.0])
    assert all(best_of_n_mean(np.zeros(4), gold, n) == pytest.approx(2) for n in (1, 2, 3, 4))
    # Of two samples that share the highest score either is chosen.
    assert best_of_n_mean([5.0, 5.0, 0.0, 0.0], gold, 4) == pytest.approx(2)


def test_thousands_of_samples_do_not_overflow():
    gold = np.arange(4096.0)
    # The highest rank of n of N has mean n (N + 1) / (n + 1); ranks begin with 0 here.
    assert best_of_n_mean(gold, gold, 1000) == pytest.approx(1000 * 4097 / 1001 - 1)


@pytest.mark.parametrize(
    ("proxy", "gold", "n", "said"),
    [
        ([1.0, 2.0], [1.0], 1, "shape"),
        ([1.0, 2.0], [1.0, 2.0], 3, "between 1 and the 2 samples"),
        ([1.0, 2.0], [1.0, 2.0], 0, "found 0"),
        ([1.0, math.nan], [1.0, 2.0], 1, "finite"),
        (1.0, 1.0, 1, "found"),
    ],
)
def test_what_cannot_be_estimated_is_refused(proxy, gold, n, said):
    with pytest.raises(ValueError, match=said if said != "shape" else r"\[\.\.\., N\]"):
        best_of_n_mean(proxy, gold, n)
