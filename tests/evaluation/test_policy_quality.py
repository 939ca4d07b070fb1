"""Policy figures counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax.evaluation import describe_responses, distinct_n, most_common_share, unique_tokens, wilson, win_rate


def test_distinct_n_over_all_responses_together():
    responses = [np.array([1, 2, 1, 2]), [1, 2, 3]]
    assert distinct_n(responses, 1) == pytest.approx(3 / 7)
    assert distinct_n(responses, 2) == pytest.approx(3 / 5)  # 12 21 12 | 12 23
    assert distinct_n(responses, 5) == 0.0
    with pytest.raises(ValueError, match="at least 1"):
        distinct_n(responses, 0)


def test_texts_and_token_ids_alike():
    assert unique_tokens(["a b", "b c"]) == unique_tokens([[0, 1], [1, 2]]) == 3
    assert most_common_share([[1, 2], np.array([1, 2]), (3,)]) == pytest.approx(2 / 3)
    assert most_common_share([]) == 0.0


def test_describe_responses():
    found = describe_responses([[5, 6], [5, 6], [7, 8, 9, 5]], [True, True, False])
    assert found["length"] == pytest.approx(8 / 3)
    assert found["eos_rate"] == pytest.approx(2 / 3)
    assert found["distinct_2"] == pytest.approx(4 / 5)
    assert found["most_common"] == pytest.approx(2 / 3)
    assert all(type(value) is float for value in found.values())
    with pytest.raises(ValueError, match="finished"):
        describe_responses([[1]], [True, False])


def test_win_rate_counts_ties_half():
    rate, interval = win_rate([1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0, 4.0])
    assert rate == pytest.approx(2.5 / 4)
    assert interval == wilson(2.5, 4)


def test_win_rate_is_fair():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(size=500)
    rate, (low, high) = win_rate(a, b)
    assert low < 0.5 < high
    assert win_rate(b, a)[0] == pytest.approx(1 - rate)


def test_win_rate_refuses_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        win_rate([np.nan], [0.0])
    with pytest.raises(ValueError, match="two lists"):
        win_rate([], [])
