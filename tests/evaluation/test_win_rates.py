"""Two on the same prompts: what is hard for both falls out of the interval; win rates by hand and at equal length."""

import numpy as np
import pytest

from rlhf_jax.evaluation import length_controlled, wilson
from rlhf_jax.evaluation.win_rates import paired_difference, paired_win_rate, places_of


def test_a_paired_interval_is_narrower_than_two_apart():
    """Both are right on the same half of the rows, and the first on a twentieth besides."""
    rows = np.arange(400)
    hard = rows % 2 == 0
    first, second = (~hard | (rows % 20 == 0)).astype(float), (~hard).astype(float)
    found = paired_difference(first, second, [str(i) for i in rows])
    assert found.difference == pytest.approx(0.05)
    low, high = found.difference_ci
    assert 0 < low < 0.05 < high
    apart = 2 * 1.96 * np.sqrt(0.25 / 400 + 0.25 / 400)
    assert high - low < apart / 2
    # The normal interval of the differences themselves.
    normal = 2 * 1.96 * (first - second).std() / np.sqrt(400)
    assert high - low == pytest.approx(normal, rel=0.1)


def test_swapping_the_two_turns_the_sign():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    prompts = [str(i % 20) for i in range(50)]
    one, other = paired_difference(x, y, prompts), paired_difference(y, x, prompts)
    assert one.difference == -other.difference
    assert one.difference_ci == pytest.approx(tuple(-v for v in other.difference_ci[::-1]))


def test_win_rates_by_hand():
    found = paired_win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0], list("abcd"), lengths=([5, 5, 5, 5], [5] * 4))
    assert (found.n, found.win_rate) == (4, 2.5 / 4)
    assert found.length_controlled == pytest.approx(2.5 / 4, abs=1e-4)
    assert found.win_rate_ci[0] < found.win_rate < found.win_rate_ci[1]
    assert paired_win_rate([1.0], [0.0], ["a"]).length_controlled is None


def test_a_policy_against_itself_wins_half():
    scores = np.random.default_rng(1).normal(size=30)
    found = paired_win_rate(scores, scores, [str(i) for i in range(30)], lengths=(np.arange(30), np.arange(30)))
    assert found.win_rate == 0.5
    assert found.win_rate_ci == (0.5, 0.5)
    assert found.length_controlled == pytest.approx(0.5)


def test_winning_everywhere_is_not_certain_to_go_on():
    assert paired_win_rate([1.0] * 8, [0.0] * 8, list("abcdefgh")).win_rate_ci == wilson(8, 8)
    assert paired_win_rate([1.0] * 8, [0.0] * 8, list("aabbccdd")).win_rate_ci == wilson(4, 4)
    one = paired_win_rate([1.0, 0.0] * 20, [0.0, 1.0] * 20, ["a"] * 40).win_rate_ci
    assert one == paired_win_rate([1.0, 0.0] * 20, [0.0, 1.0] * 20, [str(i) for i in range(40)]).win_rate_ci
    low, high = paired_difference([1.0, 0.0] * 20, [0.0] * 40, ["a"] * 40).difference_ci
    assert low < 0.5 < high


def test_at_equal_length_it_is_the_regression_of_wins_on_the_difference():
    rng = np.random.default_rng(2)
    scores, lengths = rng.normal(size=(2, 100)), rng.integers(10, 90, (2, 100))
    scores[0] += (lengths[0] - lengths[1]) / 20
    found = paired_win_rate(*scores, [str(i) for i in range(100)], lengths=tuple(lengths))
    assert found.length_controlled == length_controlled(scores[0] > scores[1], lengths[0] - lengths[1])[0]


def test_scores_have_to_be_finite_and_as_many():
    for pair in (([1.0], [1.0, 2.0]), ([np.inf], [0.0])):
        with pytest.raises(ValueError, match="as many finite scores"):
            paired_win_rate(*pair, ["a"])


def test_places_of_names():
    assert places_of(["", ""]) == {}
