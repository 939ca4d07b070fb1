"""A judge against people: worked numbers, judges whose taste is planted, and abstentions that are never votes."""

import numpy as np
import pytest

from rlhf_jax import evaluation
from rlhf_jax.evaluation import calibration, calibration_interval, judge_quality, reliability, self_preference
from rlhf_jax.evaluation.intervals import bootstrap_pairs


def random_audit(m=400, n=120, seed=0):
    """Votes, people's shares, pairs and lengths in which nothing is special."""
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.permutation(n)[:2] for _ in range(m)])
    return rng.random(m), rng.random(m), pairs, rng.integers(5, 90, n)


def test_every_figure_by_hand():
    """Four pairs: right, wrong, even, and one without a majority; the third pair's responses are equally long."""
    votes, share = [0.9, 0.8, 0.5, 0.7], [1.0, 0.25, 0.75, 0.5]
    found = judge_quality(votes, share, [[0, 1], [1, 2], [2, 3], [3, 0]], [10, 20, 5, 5], draws=50)
    assert (found.pairs, found.n, found.even, found.abstained) == (4, 3, 1, 0.0)
    assert found.accuracy == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.brier == pytest.approx((0.1**2 + 0.55**2 + 0.25**2 + 0.2**2) / 4)
    assert found.brier_even == pytest.approx((0.5**2 + 0.25**2 + 0.25**2 + 0) / 4)
    # Of the first two the longer ones are 1 and 1: the judge prefers 0 and 1, people 0 and 2.
    assert (found.longer, found.longer_people, found.longer_excess) == (0.5, 0.0, 0.5)
    low, high = found.accuracy_ci
    assert low <= found.accuracy <= high
    assert found.first is None
    assert found.to_json()["accuracy_ci"] == [low, high]


def test_the_figures_are_those_of_their_own_functions():
    votes, share, pairs, lengths = random_audit()
    found = judge_quality(votes, share, pairs, lengths, seed=3, draws=200)
    right = (votes > 0.5) == (share > 0.5)
    assert found.accuracy == right.mean()
    assert found.accuracy_ci == bootstrap_pairs(right, pairs, seed=3, draws=200)
    assert found.ece == calibration(votes, share)[0]
    further = (lengths[pairs[:, 0]] - lengths[pairs[:, 1]]) * np.sign(share - 0.5)
    assert found.at_equal_length == evaluation.length_controlled(right, further)[0]


def test_turning_pairs_round_changes_nothing():
    """Which response of a pair is called the first is nobody's opinion."""
    votes, share, pairs, lengths = random_audit()
    shown = np.random.default_rng(1).random((len(votes), 2))
    turn = np.arange(len(votes)) % 3 == 0
    there = judge_quality(votes, share, pairs, lengths, shown=shown, draws=50)
    turned = judge_quality(
        np.where(turn, 1 - votes, votes),
        np.where(turn, 1 - share, share),
        np.where(turn[:, None], pairs[:, ::-1], pairs),
        lengths,
        shown=np.where(turn[:, None], shown[:, ::-1], shown),
        draws=50,
    )
    for name, value in there.to_json().items():
        if isinstance(value, float):
            assert turned.to_json()[name] == pytest.approx(value), name


def test_an_abstention_is_no_vote():
    """The other pairs' figures stay what they were; a judge that never votes has none."""
    votes, share, pairs, lengths = random_audit()
    silent = np.where(np.arange(400) < 100, np.nan, votes)
    with_them, without = (
        judge_quality(silent, share, pairs, lengths, draws=50),
        judge_quality(votes[100:], share[100:], pairs[100:], lengths, draws=50),
    )
    assert with_them.abstained == 0.25
    assert {**with_them.to_json(), "pairs": 300, "abstained": 0.0} == without.to_json()
    never = judge_quality(np.full(400, np.nan), share, pairs, lengths, draws=50)
    assert (never.abstained, never.n, never.accuracy, never.ece, never.longer) == (1.0, 0, None, None, None)


def test_a_taste_for_the_first_place_is_found_and_its_size_is_right():
    """It gives 0.2 more to whatever is shown first: one order alone errs where the responses are closer than that."""
    rng = np.random.default_rng(2)
    gap = rng.uniform(-0.5, 0.5, 2000)
    shown = np.clip(np.stack([0.5 + gap + 0.2, 0.5 - gap + 0.2], axis=1), 0, 1)
    votes = (shown[:, 0] + 1 - shown[:, 1]) / 2
    pairs = np.arange(4000).reshape(2000, 2)
    found = judge_quality(votes, (gap > 0).astype(float), pairs, np.ones(4000), shown=shown, draws=50)
    # P(|gap| < 0.2) = 0.4: there both orders choose what is first, and one of the two is right.
    assert found.accuracy == 1.0
    assert found.consistent == pytest.approx(0.6, abs=0.03)
    assert found.one_order == pytest.approx(0.8, abs=0.015)
    # Clipped at 1 beyond a gap of 0.3, the mean over both orders is 0.7 less (0.2^2 / 2) there, on one of two sides.
    assert found.first == pytest.approx(0.7 - 0.02, abs=0.005)
    low, high = found.first_ci
    assert 0.5 < low < high


def test_a_judge_of_length_alone_is_seen_as_one():
    """It takes the longer one in nine of ten, whatever people say, who do in seven of ten."""
    rng = np.random.default_rng(3)
    pairs = np.arange(6000).reshape(-1, 2)
    lengths = np.where(rng.random((3000, 1)) < 0.5, [[100, 200]], [[200, 100]]).ravel()
    longer = lengths[pairs[:, 0]] > lengths[pairs[:, 1]]
    votes, people = (np.where(rng.random(3000) < share, longer, ~longer).astype(float) for share in (0.9, 0.7))
    found = judge_quality(votes, people, pairs, lengths, draws=100)
    assert found.accuracy == pytest.approx(0.9 * 0.7 + 0.1 * 0.3, abs=0.03)
    assert found.longer == pytest.approx(0.9, abs=0.02)
    assert found.longer_excess == pytest.approx(0.2, abs=0.03)
    assert found.at_equal_length == pytest.approx(0.5, abs=0.04)


def test_calibration_is_reliability_of_log_odds():
    rng = np.random.default_rng(4)
    gap, share = rng.normal(0, 2, 500), rng.random(500)
    ece, rows = reliability(gap, share)
    assert calibration(1 / (1 + np.exp(-gap)), share)[0] == pytest.approx(ece, abs=1e-12)
    assert sum(row["pairs"] for row in rows) == 500


def test_the_interval_of_calibration_holds_the_figure_of_a_judge_that_is_too_sure():
    """Votes of 0.9 where people are at 0.6: the error is 0.3, and so is that of every resample."""
    pairs = np.stack([np.arange(200), np.roll(np.arange(200), -1)], axis=1)
    votes, share = np.full(200, 0.9), np.full(200, 0.6)
    assert calibration(votes, share)[0] == pytest.approx(0.3)
    assert calibration_interval(votes, share, pairs, seed=0, draws=50) == pytest.approx((0.3, 0.3))
    rng = np.random.default_rng(5)
    low, high = calibration_interval(votes, rng.random(200) * 0.4 + 0.4, pairs, seed=0, draws=200)
    assert low < 0.3 < high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"votes": [1.5, 0.5]}, r"votes must lie in \[0, 1\]"),
        ({"share": [np.nan, 0.5]}, r"share must lie in \[0, 1\]"),
        ({"shown": [[0.5, 2.0], [0.5, 0.5]]}, r"shown must lie in \[0, 1\]"),
        ({"shown": [0.5, 0.5]}, "expected votes"),
        ({"pairs": [[0, 1], [1, 3]]}, "pairs must index the 3 lengths, found 0 to 3"),
        ({"votes": []}, "expected votes"),
    ],
)
def test_what_is_no_audit_is_refused(change, said):
    sound = {"votes": [0.4, 0.5], "share": [0.5, 1.0], "pairs": [[0, 1], [1, 2]], "lengths": [1, 2, 3]}
    with pytest.raises(ValueError, match=said):
        judge_quality(**{**sound, **change})


def test_self_preference_is_what_is_left_where_gold_sees_no_difference():
    """A noisy judge without a preference is at one half there, wherever gold is; one that adds to its own is not."""
    rng = np.random.default_rng(6)
    gold = rng.normal(1.0, 1.0, 3000)  # the first policy is better
    names = [str(i) for i in range(3000)]
    fair = self_preference(gold + rng.logistic(0, 2, 3000) > 0, gold, names)
    fond = self_preference(gold + rng.logistic(0, 2, 3000) + 2 > 0, gold, names)
    assert fair.gold_win_rate > 0.8
    assert fair.excess < -0.1  # its errors alone
    assert fair.at_equal_gold == pytest.approx(0.5, abs=0.04)
    assert fond.at_equal_gold == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)
    assert fond.at_equal_gold_ci[0] > 0.6


def test_self_preference_counts_votes_alone():
    found = self_preference([1.0, np.nan, 0.5], [1.0, 2.0, -1.0], ["a", "b", "c"])
    assert (found.n, found.win_rate, found.gold_win_rate, found.excess) == (2, 0.75, 0.5, 0.25)
    assert self_preference([np.nan], [1.0], ["a"]) is None
    with pytest.raises(ValueError, match="votes must lie"):
        self_preference([1.2], [1.0], ["a"])
    with pytest.raises(ValueError, match="expected votes"):
        self_preference([0.5], [np.inf], ["a"])


@pytest.mark.parametrize("votes", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
def test_no_interval_of_a_judge_that_is_always_alike_is_a_point(votes):
    shown = np.stack([votes, 1 - np.array(votes)], axis=1)
    found = judge_quality(votes, [1.0, 1.0, 1.0], [[0, 1], [2, 3], [4, 5]], [2, 1, 2, 1, 2, 1], shown=shown)
    for name in ("accuracy", "brier", "longer_excess", "first", "consistent", "one_order"):
        low, high = getattr(found, f"{name}_ci")
        assert low < high, name
        assert low <= getattr(found, name) <= high, name
    if votes[0] == 1.0:
        np.testing.assert_allclose(found.accuracy_ci, (0.4385, 1.0), atol=1e-4)  # Wilson's of 3 in 3
