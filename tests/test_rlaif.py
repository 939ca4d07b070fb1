"""What experiments/rlaif.py reports of labels, worked by hand, and that its arms have configs that stages take."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.stages import find_objective

FOLDER = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def figures():
    return inspect.getmodule(find_objective(f"{FOLDER / 'rlaif_figures.py'}:describe_labels", {}))


@pytest.fixture(scope="module")
def rlaif():
    return inspect.getmodule(find_objective(f"{FOLDER / 'rlaif.py'}:main", {}))


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


def test_an_arm_has_configs_that_its_stages_take(rlaif, tmp_path, monkeypatch):
    """Nothing is trained: what each stage is called with is only collected."""
    called = {}
    for stage in ("sft", "reward_model", "ppo"):
        monkeypatch.setattr(rlaif.stages, stage, lambda config, stage=stage, **named: called.update({stage: config}))
    made = rlaif.Experiment(tmp_path, rlaif.Size(), "", 0)
    pair = {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": 0.75, "rater": "it", "source": "judge"}
    made.sft()
    made.reward("arm", rlaif.only_pairs([{**pair, "time": ""}] * 20))
    made.ppo("arm")
    assert called["ppo"].policy == called["reward_model"].init == called["sft"].out
    parts = rlaif.stages.find_task(called["reward_model"].data).opinions(called["reward_model"].data)
    assert (len(parts.train), len(parts.validation)) == (18, 2)
    assert parts.train[0].votes.tolist() == [[0.0, 0.75], [0.25, 0.0]]


def test_the_word_list_votes_for_the_happier_sentence(rlaif):
    found = rlaif.word_list(["Write a tweet. So"], [["happy today!", "sad today."]])
    assert found.votes[0].tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_a_planted_taste_for_places_overrules_what_is_nearly_even(rlaif):
    def scored(gap):
        return {"prompt": "Hi.", "a": "x", "b": "y", "rater": "it", "source": "judge", "score_a": gap, "score_b": 0.0}

    # In either place 3 to 1 for what was shown first, in log-odds log 3, and nothing between the responses.
    found = rlaif.with_a_taste_for_places([scored(-1.0), scored(-1.2)], [row("x", "y", 0.75, 0.25)], seed=0)
    assert [one["preference"] for one in found] == [1.0, 0.0]
