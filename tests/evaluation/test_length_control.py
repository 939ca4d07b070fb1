"""Wins at equal length: worked numbers, scikit-learn's logistic regression, and judges whose bias is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rlhf_jax.evaluation import length_controlled, wilson


def by_scikit_learn(wins, difference):
    """The same regression elsewhere: a tie is half a win and half a loss, and nothing is penalised."""
    x = np.concatenate([difference, difference])[:, None] / 100
    y = np.repeat([1, 0], len(wins))
    weight = np.concatenate([wins, 1 - np.asarray(wins)])
    fitted = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(x, y, sample_weight=weight)
    return 1 / (1 + np.exp(-fitted.intercept_[0]))


def test_it_is_scikit_learns_regression_read_at_zero():
    rng = np.random.default_rng(0)
    difference = rng.normal(40, 150, 400).round()
    wins = (rng.random(400) < 1 / (1 + np.exp(-0.3 - 0.01 * difference))).astype(float)
    wins[:30] = 0.5
    rate, (low, high) = length_controlled(wins, difference)
    assert rate == pytest.approx(by_scikit_learn(wins, difference), abs=1e-5)
    assert low < rate < high


def test_two_lengths_by_hand():
    """With two differences the regression goes through both shares: log 3 at +100 and log(1/2) at -50."""
    wins = [1, 1, 1, 0, 1, 0, 0]
    difference = [100] * 4 + [-50] * 3
    log_odds = np.log(0.5) + (np.log(3) - np.log(0.5)) * 50 / 150  # the line, where it crosses 0
    assert length_controlled(wins, difference)[0] == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-4)


def test_a_judge_of_length_alone_is_left_with_half():
    """Who writes longer wins 9 in 10 times and is no better: the plain rate says 0.74, the controlled one half."""
    rng = np.random.default_rng(1)
    difference = np.where(rng.random(4000) < 0.8, 100.0, -100.0)
    wins = (rng.random(4000) < np.where(difference > 0, 0.9, 0.1)).astype(float)
    rate, (low, high) = length_controlled(wins, difference)
    assert wins.mean() > 0.72
    assert rate == pytest.approx(0.5, abs=0.03)
    assert low < 0.5 < high


def test_where_length_explains_every_win_there_is_still_a_number():
    """No largest likelihood: the slope grows without end, and with it the width of what one can say at 0."""
    difference = np.array([-30.0, -20, -10, 10, 20, 30])
    rate, (low, high) = length_controlled(difference > 0, difference)
    assert rate == pytest.approx(0.5, abs=1e-6)
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(("wins", "rate"), [([1, 1, 1], 1.0), ([0, 0, 0], 0.0)])
def test_all_or_nothing(wins, rate):
    """Three wins of three are no proof of 100%: the interval is Wilson's, of as many prompts as there are."""
    assert length_controlled(wins, [5, -3, 1]) == (rate, wilson(sum(wins), 3))
    assert length_controlled(wins, [5, -3, 1], groups=["p", "p", "q"]) == (rate, wilson(2 * rate, 2))


def test_one_prompt_does_not_make_it_certain():
    wins, difference = [1, 0, 1, 1, 0, 1, 0, 1], [3, 1, -2, 5, -4, 2, -1, -3]
    assert length_controlled(wins, difference, groups=["p"] * 8) == length_controlled(wins, difference)


def test_equal_lengths_leave_the_rate():
    rate, _ = length_controlled([1, 0.5, 0, 1], [0, 0, 0, 0])
    assert rate == pytest.approx(2.5 / 4, abs=1e-4)


def test_the_interval_of_many_rows_takes_one_step_to_each_resample(monkeypatch):
    """It is that of the resamples' own fits, to a thousandth."""
    rng = np.random.default_rng(4)
    difference = rng.normal(20, 100, 2500)
    wins = (rng.random(2500) < 1 / (1 + np.exp(-0.4 - 0.01 * difference))).astype(float)
    rate, short = length_controlled(wins, difference, draws=100)
    monkeypatch.setattr("rlhf_jax.evaluation.length_control._MANY", 10_000)
    assert length_controlled(wins, difference, draws=100) == (rate, pytest.approx(short, abs=1e-3))


def test_rows_of_one_prompt_are_drawn_together():
    """Each row eight times is eight times the rows and no more evidence."""
    rng = np.random.default_rng(2)
    wins, difference, prompts = (rng.random(60) < 0.6).astype(float), rng.normal(0, 50, 60), np.arange(60)
    _, alone = length_controlled(wins, difference)
    again = [np.repeat(x, 8) for x in (wins, difference, prompts)]
    _, together = length_controlled(*again[:2], groups=again[2])
    _, apart = length_controlled(*again[:2])
    assert np.diff(together) == pytest.approx(np.diff(alone), rel=0.15)
    assert np.diff(apart) < 0.5 * np.diff(alone)


@pytest.mark.parametrize(
    ("wins", "difference", "says"),
    [([], [], "n > 0"), ([1, 0], [1], "found"), ([2.0], [1.0], "lie in"), ([1.0], [np.nan], "finite")],
)
def test_what_cannot_be_fitted_is_refused(wins, difference, says):
    with pytest.raises(ValueError, match=says):
        length_controlled(wins, difference)
