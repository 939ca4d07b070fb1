"""What judges say is looked at where they are asked: shapes, shares, abstentions."""

import numpy as np
import pytest

from rlhf_jax.feedback.judges import Verdicts, from_scores, judged, of_both_orders, votes_of_scores

PROMPTS, PAIRS = ["a", "b"], [["x", "yy"], ["z", ""]]


def say(votes):
    return lambda prompts, responses: votes


def test_votes_of_pairs_may_be_the_share_for_the_first_alone():
    found = judged(say([0.25, np.nan]), PROMPTS, PAIRS, called="mine")
    np.testing.assert_array_equal(found.votes[0], [[0, 0.25], [0.75, 0]])
    np.testing.assert_array_equal(found.votes[1], [[0, np.nan], [np.nan, 0]])  # it abstained: no half vote
    assert found.votes.dtype == np.float32


def test_what_stands_on_the_diagonal_means_nothing():
    votes = np.full((1, 2, 2), 0.5)
    assert judged(say(votes), ["a"], [["x", "y"]], called="mine").votes.tolist() == [[[0, 0.5], [0.5, 0]]]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([0.5, 1.5], r"found 1\.5 and -0\.5 for responses 0 and 1 to prompt 1"),
        ([[[0, 1], [1, 0]], [[0, 1], [0, 0]]], r"add up to 1.*found 1 and 1 for responses 0 and 1 to prompt 0"),
        ([[[0, np.nan], [0.5, 0]]] * 2, r"both NaN where it abstains: found nan and 0\.5"),
        ([np.inf, 0.5], r"found inf and -inf"),
        ([0.5], r"must return votes \[2, 2, 2\], or \[2\], the share for the first of two, found shape \[1\]"),
        (["a", "b"], r"must return votes, found \['a', 'b'\]"),
        (None, r"must return votes.*found"),
        (["1", "0.5"], r"must return votes, found \['1', '0\.5'\]"),
        (np.array([0.5 + 1j, 0.5]), r"must return votes, found"),
        (Verdicts([0.5, 0.5], scores=np.ones((3, 2))), r"must return scores \[2, 2\], found shape \[3, 2\]"),
        (Verdicts([0.5, 0.5], scores=[["1", "2"], ["3", "4"]]), r"must return scores, found"),
        (Verdicts([0.5, 0.5], scores=[[np.inf, 1], [1, 2]]), r"scores that are finite.*found inf"),
        (Verdicts([0.5, 0.5], shown=np.ones((1, 2, 2))), r"shown \[2, 2, 2\], found shape \[1, 2, 2\]"),
    ],
)
def test_anything_but_shares_is_refused(votes, said):
    with pytest.raises(ValueError, match=rf"^mine.*{said}"):
        judged(say(votes), PROMPTS, PAIRS, called="mine")


def test_none_and_what_is_masked_are_abstentions():
    for votes in ([None, 1.0], np.ma.masked_array([0.7, 1.0], mask=[True, False])):
        found = judged(say(votes), PROMPTS, PAIRS, called="mine").votes[:, 0, 1]
        np.testing.assert_array_equal(found, [np.nan, 1.0])


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([1, 2, 3], r"scores \[4\], found shape \[3\]"),
        ([[1, 2], [3, 4]], r"scores \[4\], found shape \[2, 2\]"),
        ([np.inf, 1, 2, 3], "finite.*found inf"),
        ([1e39, 1, 2, 3], "finite.*found inf"),
        (["1", "2", "3", "4"], "must return scores, found"),
        (None, "must return scores"),
        ({}, "must return scores"),
    ],
)
def test_anything_but_a_number_for_each_response_is_refused(scores, said):
    with pytest.raises(ValueError, match=said):
        judged(from_scores(say(scores)), PROMPTS, PAIRS, called="mine")


def test_prompts_and_responses_have_to_fit():
    with pytest.raises(ValueError, match=r"2 prompts, found 1 lists of 2"):
        judged(say([0.5]), PROMPTS, PAIRS[:1], called="mine")
    with pytest.raises(ValueError, match="lists of 2, 3"):
        judged(say([0.5]), PROMPTS, [["x", "y"], ["x", "y", "z"]], called="mine")
    with pytest.raises(ValueError, match="at least 2"):
        judged(say([0.5]), ["a"], [["x"]], called="mine")


def test_a_judge_is_not_asked_about_nothing():
    assert judged(say("never looked at"), [], [], called="mine").votes.shape == (0, 2, 2)


def test_scores_vote_as_bradley_and_terry_say():
    votes = votes_of_scores([[2.0, 0.5, np.nan]])
    assert votes[0, 0, 1] == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert votes[0, 0, 1] + votes[0, 1, 0] == pytest.approx(1)
    assert np.isnan(votes[0, 2, :2]).all()
    assert np.isnan(votes[0, :2, 2]).all()
    assert votes[0, 2, 2] == 0
    assert votes_of_scores([[2.0, 0.5]], scale=3.0)[0, 0, 1] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert votes_of_scores([[1e30, -1e30], [1.0, 1.0]], scale=0.0)[:, 0, 1].tolist() == [1.0, 0.5]
    found = judged(from_scores(lambda p, r: [len(x) for x in r]), PROMPTS, PAIRS, called="length")
    assert found.scores.tolist() == [[1, 2], [1, 0]]


def test_both_orders_undo_a_taste_for_places():
    taste = np.asarray([[[0, 0.8, 0.8], [0.8, 0, 0.8], [0.8, 0.8, 0]]])
    assert of_both_orders(taste)[0, 0, 1] == pytest.approx(0.5)
    # 0.9 where it came first and 0.7 where it came second: 0.8.
    assert of_both_orders([[[0, 0.9], [0.3, 0]]])[0] == pytest.approx(np.asarray([[0, 0.8], [0.2, 0]]))
    # One order without an answer: no vote.
    assert np.isnan(of_both_orders([[[0, 0.9], [np.nan, 0]]])[0, 0, 1])


def test_what_stands_beside_the_votes_stays():
    shown = np.full((1, 2, 2), 0.5, np.float32)
    found = judged(say(Verdicts([0.5], shown=shown)), ["a"], [["x", "y"]], called="mine")
    np.testing.assert_array_equal(found.shown, shown)
