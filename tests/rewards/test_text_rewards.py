"""Any callable on texts is a reward, and what it returns is checked."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.rewards import score_texts

PROMPTS, RESPONSES = ["p", "q", "r"], ["a", "bb", "ccc"]


@pytest.mark.parametrize(
    "give",
    [
        lambda n: n,
        lambda n: tuple(n),
        lambda n: np.array(n, np.int8),
        lambda n: np.array(n, np.float64),
        lambda n: jnp.array(n, jnp.bfloat16),
        lambda n: [np.float32(x) for x in n],
    ],
    ids=["list", "tuple", "int8", "float64", "bfloat16", "numbers"],
)
def test_whatever_numbers_come_back_are_float32(give):
    scores = score_texts(lambda prompts, responses: give([len(r) for r in responses]), PROMPTS, RESPONSES)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [1, 2, 3])


def test_a_reward_sees_prompts_and_responses_in_order():
    seen = []
    score_texts(lambda p, r: seen.append((list(p), list(r))) or [0, 0, 0], PROMPTS, RESPONSES)
    assert seen == [(PROMPTS, RESPONSES)]


def test_booleans_are_numbers():
    np.testing.assert_array_equal(score_texts(lambda p, r: [len(x) > 1 for x in r], PROMPTS, RESPONSES), [0, 1, 1])


@pytest.mark.parametrize("wrong", [[1.0], [[1.0], [2.0], [3.0]], 1.0, [1.0] * 4], ids=["few", "column", "one", "many"])
def test_another_number_of_scores_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"shape .* for 3 responses"):
        score_texts(lambda p, r: wrong, PROMPTS, RESPONSES)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_names_the_response(wrong):
    with pytest.raises(ValueError, match=r"response 1, 'bb': scores must be finite"):
        score_texts(lambda p, r: [0.0, wrong, 1.0], PROMPTS, RESPONSES)


@pytest.mark.parametrize("wrong", [["high", "low", "low"], [None, 1.0, 2.0], None, {"a": 1}], ids=str)
def test_what_is_no_number_is_an_error(wrong):
    with pytest.raises((ValueError, TypeError)):
        score_texts(lambda p, r: wrong, PROMPTS, RESPONSES)
