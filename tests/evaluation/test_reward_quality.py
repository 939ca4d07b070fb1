"""Reward-model quality: figures counted by hand on a few pairs; calibration of a model right by construction."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlhf_jax.evaluation import pair_accuracy, reliability, reward_quality


def synthetic(n: int = 400, noise: float = 1.0, seed: int = 0):
    """Sentences with a true quality, pairs inside two domains, and votes drawn by Bradley-Terry on that quality."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=n)
    domains = ["a"] * (n // 2) + ["b"] * (n - n // 2)
    half = n // 2
    pairs = np.concatenate([rng.integers(0, half, (6 * half, 2)), rng.integers(half, n, (6 * half, 2))])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    p = 1 / (1 + np.exp(quality[pairs[:, 1]] - quality[pairs[:, 0]]))
    share = rng.binomial(15, p) / 15
    return quality + noise * rng.normal(size=n), pairs, share, domains, rng.integers(3, 40, n)


def test_counted_by_hand():
    scores = [3.0, 2.0, 1.0, 1.0]
    pairs = [[0, 1], [1, 2], [2, 0], [2, 3], [0, 3]]
    share = [0.9, 0.3, 0.1, 0.7, 0.5]
    # right, wrong, right, tied (half), even votes (not counted)
    found = reward_quality(scores, pairs, share, ["x", "x", "x", "x"], [1, 2, 3, 4], golden=[0, 1, 2])
    assert found["pairs"] == 4
    assert found["accuracy"] == pytest.approx(2.5 / 4)
    # outside 0.2 to 0.8: the first and the third
    assert found["accuracy_decided"] == 1.0
    # both sentences golden: the first three
    assert found["golden_accuracy"] == pytest.approx(2 / 3)
    assert found["reward_mean"] == pytest.approx(1.75)
    # The longer one is last in pairs 0, 1, 3, 4 and first in pair 2; the model prefers the shorter but for one tie.
    assert found["longer_wins"] == pytest.approx(0.5 / 5)
    # People: the shorter, the longer, the shorter, the shorter, even.
    assert found["longer_wins_people"] == pytest.approx(1.5 / 5)
    assert found["pairs_uneven"] == 5


def test_even_votes_up_to_float32_rounding():
    share = np.float32([0.1 + 0.4, 0.7 - 0.2, 0.51])
    assert pair_accuracy([1.0, 0.0], [[0, 1]] * 3, share)[0].tolist() == [False, False, True]


def test_shares_may_pass_one_by_rounding_only():
    assert pair_accuracy([1.0, 0.0], [[0, 1]], [1.0000000000000002])[1].tolist() == [1.0]
    with pytest.raises(ValueError, match="share must lie"):
        pair_accuracy([1.0, 0.0], [[0, 1]], [1.1])


def test_the_order_of_a_pair_does_not_matter():
    scores, pairs, share, domains, lengths = synthetic()
    one = reward_quality(scores, pairs, share, domains, lengths)
    other = reward_quality(scores, pairs[:, ::-1], 1 - share, domains, lengths)
    for name in ("accuracy", "accuracy_decided", "ece", "longer_wins", "longer_wins_people"):
        assert one[name] == pytest.approx(other[name], abs=1e-12), name


def test_by_domain_adds_up_and_intervals_hold_the_figure():
    scores, pairs, share, domains, lengths = synthetic()
    found = reward_quality(scores, pairs, share, domains, lengths, golden=np.arange(100))
    parts, intervals, pairs_in = (found[k] for k in ("accuracy_by_domain", "accuracy_by_domain_ci", "pairs_by_domain"))
    assert sum(pairs_in.values()) == found["pairs"]
    pooled = sum(parts[d] * pairs_in[d] for d in parts) / found["pairs"]
    assert pooled == pytest.approx(found["accuracy"])
    for value, (low, high) in [
        (found["accuracy"], found["accuracy_ci"]),
        (found["accuracy_decided"], found["accuracy_decided_ci"]),
        (found["golden_accuracy"], found["golden_accuracy_ci"]),
        *((parts[d], intervals[d]) for d in parts),
    ]:
        assert low < value < high
    # Fewer pairs, wider interval.
    widths = [high - low for low, high in (found["accuracy_ci"], intervals["a"])]
    assert widths[0] < widths[1]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_model_that_gives_the_true_odds_is_calibrated():
    scores, pairs, share, domains, lengths = synthetic(n=3000, noise=0.0)
    found = reward_quality(scores, pairs, share, domains, lengths)
    assert found["ece"] < 0.015
    # Three times the true scores is overconfident: people agree less than it says.
    gap = 3 * (scores[pairs[:, 0]] - scores[pairs[:, 1]])
    ece, rows = reliability(gap, share)
    assert ece > 0.1
    assert all(row["observed"] < row["confidence"] for row in rows[2:])


def test_reliability_by_hand():
    # Confidence 0.72 with shares 1 and 0.5, and 0.96, written the other way round, with share 1 - 0.1.
    d = np.log(0.72 / 0.28)
    ece, rows = reliability([d, d, -np.log(0.96 / 0.04)], [1.0, 0.5, 0.1], bins=10)
    assert [(round(row["low"], 2), row["pairs"]) for row in rows] == [(0.7, 2), (0.95, 1)]
    assert [row["observed"] for row in rows] == pytest.approx([0.75, 0.9])
    assert ece == pytest.approx((2 * 0.03 + 0.06) / 3)


@pytest.mark.parametrize(("factor", "word"), [(-1.0, "below 65%"), (0.001, "collapsed"), (100.0, "saturated")])
def test_warnings_about_the_scores(factor, word):
    scores, pairs, share, domains, lengths = synthetic(noise=0.3)
    found = reward_quality(factor * scores, pairs, share, domains, lengths)["warnings"]
    assert [text for text in found if word in text] == found
    assert len(found) == 1


def test_a_good_model_gets_no_warning_and_a_perfect_one_does():
    scores, pairs, share, domains, lengths = synthetic(noise=0.3)
    assert reward_quality(scores, pairs, share, domains, lengths)["warnings"] == []
    votes = (scores[pairs[:, 0]] > scores[pairs[:, 1]]).astype(float)
    (warning,) = reward_quality(scores, pairs, votes, domains, lengths)["warnings"]
    assert "above 90%" in warning


def test_refuses_scores_that_are_not_finite_and_indices_out_of_range():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        reward_quality([np.nan, 1.0], [[0, 1]], [0.6], ["a", "a"], [1, 2])
    with pytest.raises(ValueError, match="pairs must index the 2 scores"):
        reward_quality([0.0, 1.0], [[0, 2]], [0.6], ["a", "a"], [1, 2])
    with pytest.raises(ValueError, match="domains and lengths"):
        reward_quality([0.0, 1.0], [[0, 1]], [0.6], ["a"], [1, 2])


def test_no_pair_speaks_to_a_figure():
    found = reward_quality([0.0, 1.0], [[0, 1]], [0.5], ["a", "a"], [2, 2], golden=[])
    assert found["accuracy"] is None
    assert found["accuracy_by_domain"] == {"a": None}
    assert found["pairs_by_domain"] == {"a": 0}
    assert found["golden_accuracy"] is None
    assert found["longer_wins"] is None
