"""Best-of-K accuracy, ties, calibration and intervals over prompts, counted by hand."""

import numpy as np
import pytest

from rlhf_jax.evaluation import bootstrap_groups, reliability, wilson
from rlhf_jax.evaluation.choices import ScoredChoice, by_subset, choice_quality, picked, worst_subset


def row(*scores, right=1, share=1.0, lengths=None, prompt=None, subset=""):
    values = np.array(scores, np.float64)
    sizes = np.full(len(values), 10) if lengths is None else np.array(lengths)
    return ScoredChoice(values, right, share, sizes, prompt or f"{scores}{subset}{right}", subset)


def test_every_right_answer_has_to_be_above_every_wrong_one():
    assert picked(np.array([4.0, 1.0, 2.0, 3.0]), 1) == 1.0
    assert picked(np.array([3.0, 1.0, 2.0, 4.0]), 1) == 0.0
    assert picked(np.array([3.0, 2.0, 1.0]), 2) == 1.0
    assert picked(np.array([3.0, 1.0, 2.0]), 2) == 0.0  # the best is right, and one that is right is below
    # Equal scores: the chance of coming first among those that share the top.
    assert picked(np.array([2.0, 2.0]), 1) == 1 / 2
    assert picked(np.array([2.0, 2.0, 1.0, 2.0]), 1) == 1 / 3


def test_counted_by_hand():
    rows = [
        row(2.0, 1.0),  # right
        row(1.0, 2.0),  # wrong
        row(1.0, 1.0),  # half
        row(5.0, 1.0, 2.0, 3.0),  # right, of four
        row(0.1, 0.0, right=0, share=0.5),  # people tie, and the model nearly
        row(3.0, 0.0, right=0, share=0.5),  # people tie, and the model is sure
    ]
    found = choice_quality(rows)
    assert (found.n, found.ties, found.even_scores) == (4, 2, 1)
    assert found.accuracy == 2.5 / 4
    assert found.accuracy_ci == wilson(2.5, 4)
    assert found.chance == pytest.approx((3 * 1 / 2 + 1 / 4) / 4)
    assert found.ties_near == 0.5
    gaps = [1.0, -1.0, 0.0, 4.0, 3.0, 2.0, 0.1, 3.0]
    assert found.ece == pytest.approx(reliability(gaps, [1, 1, 1, 1, 1, 1, 0.5, 0.5])[0])
    assert found.to_json()["accuracy_ci"] == list(found.accuracy_ci)


def test_scores_at_random_are_right_as_often_as_chance_says():
    rng = np.random.default_rng(0)
    rows = [row(*rng.normal(size=4), right=1 + i % 3, prompt=str(i)) for i in range(3000)]
    found = choice_quality(rows, lengths=False)
    low, high = found.accuracy_ci
    assert low < found.chance < high
    assert found.chance == pytest.approx((1 / 4 + 1 / 6 + 1 / 4) / 3, abs=1e-9)


def test_rows_of_one_prompt_are_one_piece_of_evidence():
    once = [row(1.0, i % 2 * 2.0, prompt=f"p{i}") for i in range(40)]
    assert choice_quality(once).accuracy_ci == wilson(20, 40)
    often = choice_quality([one for one in once for _ in range(10)]).accuracy_ci
    assert often == bootstrap_groups(
        np.repeat([1.0, 0.0] * 20, 10), np.repeat([f"p{i}" for i in range(40)], 10), seed=0
    )
    assert np.diff(often) == pytest.approx(np.diff(wilson(20, 40)), rel=0.15)
    assert np.diff(often) > 2 * np.diff(wilson(200, 400))


def test_few_prompts_do_not_make_it_certain():
    """Of one prompt every draw is the same, and three prompts with equal shares are little better."""
    rows = [row(1.0, i % 2 * 2.0, prompt=f"p{i // 2 % 3}") for i in range(60)]
    assert choice_quality(rows).accuracy_ci == wilson(30, 60)
    repeated = [row(1.0, 0.0, prompt=f"p{i // 2}") for i in range(8)]
    found = choice_quality(repeated)
    assert (found.accuracy, found.accuracy_ci) == (1.0, wilson(8, 8))
    assert found.length_controlled_ci == wilson(4, 4)


def test_a_longer_is_better_model_loses_its_accuracy_at_equal_length():
    """People pick the longer one in 3 of 4 rows; a model that only counts characters is right in those."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(800):
        longer = 20 if i % 4 else -20
        lengths = (100 + longer + int(rng.integers(0, 30)), 100 + int(rng.integers(0, 30)))
        rows.append(row(*map(float, lengths), lengths=lengths, prompt=str(i)))
    found = choice_quality(rows)
    assert found.accuracy > 0.6
    assert found.length_controlled == pytest.approx(0.5, abs=0.05)


def test_subsets_and_the_worst_of_them():
    rows = [row(1, 0, subset="a", prompt="1"), row(1, 0, subset="b", prompt="2"), row(0, 1, subset="b", prompt="3")]
    by = by_subset(rows)
    assert list(by) == ["a", "b"]
    assert (by["b"].n, by["b"].accuracy, by["b"].length_controlled) == (2, 0.5, None)
    assert worst_subset(by) == "b"
    assert by_subset([row(1, 0)]) == {}
    assert worst_subset({"a": by["a"]}) == ""


def test_ties_alone_have_no_accuracy():
    found = choice_quality([row(1.0, 0.0, right=0, share=0.5)])
    assert (found.n, found.accuracy, found.accuracy_ci, found.chance) == (0, None, None, None)
    assert found.ece is not None


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        choice_quality([row(np.nan, 0.0)])
