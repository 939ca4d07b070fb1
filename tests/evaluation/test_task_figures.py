"""Figures of tasks are what the sums by hand are, and two models' are held against each other row by row."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation.task_figures import Parts, task_difference, task_figure


def test_a_perplexity_is_of_all_tokens_and_no_mean_of_texts():
    parts = Parts(np.array([2.0, 12.0]), np.array([1.0, 9.0]), exponential=True)
    found = task_figure(parts, ["one", "two"])
    assert found.value == pytest.approx(math.exp(1.4))
    assert found.ci[0] == pytest.approx(math.exp(12 / 9))
    assert found.ci[1] == pytest.approx(math.exp(2.0))


def test_all_right_is_not_sure():
    low, high = task_figure(Parts(np.ones(3), np.ones(3)), ["a", "b", "c"]).ci
    assert low == pytest.approx(0.4385, abs=1e-3)
    assert high == 1.0


def test_what_is_hard_for_both_falls_out_of_the_difference():
    rng = np.random.default_rng(0)
    hard = rng.uniform(10, 200, 80)
    names, tokens = [str(i) for i in range(80)], np.full(80, 20.0)
    one, other = (Parts(hard + more, tokens, exponential=True) for more in (1.0, 0.0))
    apart = [task_figure(parts, names).ci for parts in (one, other)]
    low, high = task_difference(one, other, names).ci
    assert 0 < low < high < (apart[0][1] - apart[0][0]) / 2


def test_the_same_model_differs_by_nothing():
    parts = Parts(np.array([0.0, 1.0, 1.0]), np.ones(3))
    found = task_difference(parts, parts, ["a", "b", "c"])
    assert (found.value, found.ci) == (0.0, (0.0, 0.0))


def test_rows_of_one_prompt_are_drawn_together():
    alike = Parts(np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4))
    assert task_figure(alike, ["a", "a", "b", "b"]).ci == (0.0, 1.0)


@pytest.mark.parametrize("groups", [[], ["a"]])
def test_shapes_are_looked_at(groups):
    with pytest.raises(ValueError, match="as many parts above and below as groups"):
        task_figure(Parts(np.ones(2), np.ones(2)), groups)
