"""What experiments/rlaif.py reports of labels: worked by hand."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.stages import find_objective

FILE = Path(__file__).parents[1] / "experiments" / "rlaif_figures.py"


@pytest.fixture(scope="module")
def figures():
    return inspect.getmodule(find_objective(f"{FILE}:describe_labels", {}))


def row(a, b, first, second):
    """A pair whose votes are the mean of both orders, as ``stages.label`` writes it."""
    return {"a": a, "b": b, "preference": (first + second) / 2, "shown_first": first, "shown_second": second}


def test_labels_are_measured_against_the_truth(figures):
    rows = [
        row("long one", "short", 0.9, 0.6),  # for the longer one in both orders, rightly
        row("long one", "short", 0.8, 0.4),  # another answer in another order; 0.6 for the longer one, wrongly
        row("short", "long one", 0.7, 0.1),  # 0.4 for the shorter one: for the longer one, wrongly
        row("same", "size", 0.9, 0.7),  # rightly; no length in it
    ]
    found = figures.describe_labels("it", rows, np.array([1.0, 0.0, 1.0, 1.0]))
    assert found.agreement[0] == 0.5
    # Of three pairs of unequal length the label takes the longer one in all, the truth in one.
    assert found.longer[0] == pytest.approx(2 / 3)
    # What was shown first got 0.9, 0.8, 0.7, 0.9 and, in the other order, 0.4, 0.6, 0.9, 0.3.
    assert found.first[0] == pytest.approx((3.3 + 2.2) / 8)
    assert found.flips == 0.5


def test_in_one_order_the_more_probable_answer_is_the_whole_label(figures):
    rows = [row("x", "y", 0.6, 0.1), row("x", "y", 0.4, 0.3), row("x", "y", 0.5, 0.5)]
    assert figures.one_order_share(rows).tolist() == [1.0, 0.0, 0.5]
    found = figures.describe_labels("it", rows, np.array([0.0, 0.0, 0.5]), one_order=True)
    assert (found.agreement[0], found.longer, found.flips) == (0.5, None, None)
    assert found.first[0] == pytest.approx(0.5)


def test_what_has_no_true_answer_counts_for_nothing_and_scores_have_no_order(figures):
    rows = [{"a": "one two", "b": "one", "preference": 1.0}, {"a": "one", "b": "two", "preference": 0.0}]
    found = figures.describe_labels("it", rows, np.array([1.0, 0.5]))
    assert (found.agreement[0], found.longer[0], found.first, found.flips) == (1.0, 0.0, None, None)


def test_a_policy_is_compared_prompt_by_prompt(figures):
    before = [{"prompt": f"p{i}", "tokens": [5, 6, 2], "gold": 0.0, "vader": 0.0, "ended": True} for i in range(4)]
    after = [{**r, "gold": g, "kl": 2.0, "tokens": [7, 2]} for r, g in zip(before, (1, 1, 1, -1), strict=True)]
    found = figures.describe_policy(before, after)
    assert (found["gold"][0], found["vader"][0], found["kl"][0], found["length"][0]) == (0.75, 0.5, 2.0, 2.0)
