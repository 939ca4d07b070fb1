"""A scorer that agrees with whoever asks is found, and one that knows its mind is not."""

import numpy as np
import pytest

from rlhf_jax.evaluation.monitors.agreeing import (
    TEMPLATES,
    Question,
    agreeing,
    agreeing_messages,
    asked,
    gaps,
    question,
)
from rlhf_jax.evaluation.monitors.questions import QUESTIONS


def scored(score, questions=QUESTIONS):
    """What a function of (prompt, answer) says of all questions."""
    return np.reshape([score(*pair) for pair in asked(questions)], (len(questions), len(TEMPLATES), 2, 2))


def flatters(prompt, answer):
    """Two more for the answer that the prompt holds, whatever it is worth."""
    return len(answer) / 10 + 2.0 * (answer in prompt)


def test_a_reward_that_flatters_is_found():
    found = agreeing(scored(flatters))
    assert found.questions == 24
    assert found.gap == pytest.approx(2.0)
    assert found.gap_ci == pytest.approx((2.0, 2.0))
    assert (found.agrees, found.follows, found.contradicts) == (1.0, 1.0, 0.0)
    assert "likes to be agreed with: in 100% of 24 questions" in agreeing_messages(found, None, None, None)[0]


def test_a_reward_that_knows_its_mind_is_not():
    found = agreeing(scored(lambda prompt, answer: len(answer) / 10))
    assert (found.gap, found.agrees, found.follows) == (pytest.approx(0.0), 0.5, 0.0)
    assert agreeing_messages(found, None, None, None) == []
    # Nor is one that always contradicts, or tosses a coin.
    contradicts = agreeing(-scored(flatters))
    assert (contradicts.gap, contradicts.agrees, contradicts.contradicts) == (pytest.approx(-2.0), 0.0, 1.0)
    coins = [agreeing(coin) for coin in np.random.default_rng(0).normal(size=(20, 24, 2, 2, 2))]
    assert all(agreeing_messages(coin, None, None, None) == [] for coin in coins)
    # Of two tosses a quarter follow, and a quarter contradict.
    assert np.mean([coin.follows for coin in coins]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([coin.contradicts for coin in coins]) == pytest.approx(0.25, abs=0.04)


def test_how_good_an_answer_is_falls_out():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 2, 2, 2))
    worth = rng.normal(size=(5, 1, 1, 2)) * 10
    askers = rng.normal(size=(5, 2, 2, 1)) * 10  # nor does it matter who is answered with more zest
    np.testing.assert_allclose(gaps(scores + worth + askers), gaps(scores), atol=1e-12)


def test_a_policy_is_held_against_its_start():
    """Every language model repeats the prompt a little; what counts is what training added."""
    start, learnt = agreeing(scored(lambda p, a: 0.1 * (a in p) + len(a))), agreeing(scored(flatters))
    assert agreeing_messages(None, learnt, start, (1.5, 2.3))[0].startswith("The policy learnt to agree: in 100%")
    assert agreeing_messages(None, learnt, start, (-0.1, 2.3)) == []
    assert agreeing_messages(None, learnt, learnt, (0.1, 0.2)) == []
    assert agreeing_messages(None, learnt, None, None) == []


def test_both_opinions_are_asked_of_both_answers():
    pairs = asked(QUESTIONS)
    assert len(set(pairs)) == len(pairs) == 24 * 2 * 2 * 2
    for one in QUESTIONS:
        assert one.answers[0] != one.answers[1]
        # Neither answer holds the other, or it would stand in the prompt of somebody who says the other.
        assert one.answers[0] not in one.answers[1]
        assert one.answers[1] not in one.answers[0]
    apart = Question("Tea?", ("Yes.", "No."), ("I like tea.", "I hate tea."))
    assert asked([apart], ["{question} {opinion}"])[3] == ("Tea? I hate tea.", "No.")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"answers": ["a", "b"]}, "'question'"),
        ({"question": " ", "answers": ["a", "b"]}, "'question'"),
        ({"question": "q"}, "'answers'"),
        ({"question": "q", "answers": ["a", "a"]}, "'answers'"),
        ({"question": "q", "answers": ["a", "b", "c"]}, "'answers'"),
        ({"question": "q", "answers": ["a", "b"], "opinions": ["a", 1]}, "'opinions'"),
    ],
)
def test_a_bad_row_is_named(row, field):
    with pytest.raises(ValueError, match=f"mine.jsonl:3: {field}"):
        question(row, "mine.jsonl:3")


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        gaps([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="not finite"):
        gaps(np.full((1, 1, 2, 2), np.nan))
