"""The scores of RewardBench 1 and 2 on a few rows, worked by hand."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation.choices import ScoredChoice
from rlhf_jax.evaluation.reward_bench import section_scores, subset_scores, ties_score


def row(subset, *scores, right=1):
    return ScoredChoice(np.array(scores, np.float64), right, 1.0, np.ones(len(scores)), subset, subset)


def test_a_section_weighs_its_subsets_by_their_rows():
    """Chat: 1 of 1 and 1 of 3. Reasoning: mathematics 1 of 2, code 3 of 4 over two languages, both weigh half."""
    chat = [row("alpacaeval-easy", 1, 0), row("mt-bench-med", 1, 0), *[row("mt-bench-med", 0, 1)] * 2]
    reasoning = [row("math-prm", 1, 0), row("math-prm", 0, 1)]
    reasoning += [row("hep-go", 1, 0), *[row("hep-rust", 1, 0)] * 2, row("hep-rust", 0, 1)]
    found = section_scores([*chat, *reasoning, row("somebody's own", 0, 1)])
    assert found == {"Chat": 2 / 4, "Reasoning": (1 / 2 + 3 / 4) / 2}


def test_best_of_four_and_equal_scores():
    rows = [row("Math", 4, 1, 2, 3), row("Math", 2, 2, 1, 0), row("Focus", 1, 2, 0, 0)]
    assert subset_scores(rows, ["1", "2", "3"]) == {"Math": 0.75, "Focus": 0.0}


def test_the_score_of_ties_by_hand():
    rows = [
        row("Ties", 3.0, 2.0, 0.5, right=2),  # 1: above by 1.5, apart by 1
        row("Ties", 2.0, 1.2),  # its reference: above by 0.8
        row("Ties", 3.0, 1.0, 2.0, right=2),  # 2: one right answer is below, by 1; apart by 2
        row("Ties", 5.0, 1.0),  # its reference: above by 4
    ]
    ids = ["tied:1", "ref:1", "tied:2", "ref:2"]
    margins = (math.tanh(0.8 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2
    # accuracy 1/2 of the tied and 2/2 of the references; 1.5 > 1 but not -1 > 2; 0.8 > 1 is not, nor -1 > 2
    by_hand = 0.3 * 0.5 + 0.3 * 1 + 0.2 * 0.5 + 0.2 * 0 + 0.01 * margins
    assert ties_score(rows, ids) == pytest.approx(by_hand)
    assert subset_scores(rows, ids) == {"Ties": pytest.approx(by_hand)}
    assert ties_score(rows[::2], ids[::2]) == 0.3 * 0.5  # without references: accuracy alone


def test_right_answers_that_score_the_same_have_no_spread_to_divide_by():
    tied, ref = row("Ties", 1.0, 1.0, 0.0, right=2), row("Ties", 1.0, 0.0)
    assert ties_score([tied, ref], ["tied:7", "ref:7"]) == pytest.approx(1.01)


def test_an_id_of_another_form_is_named():
    with pytest.raises(ValueError, match=r"'17'.*tied:NUMBER"):
        ties_score([row("Ties", 1.0, 0.0)], ["17"])
