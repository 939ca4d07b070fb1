"""Labels that follow the place or the length of a response are named before anything is trained on them."""

import numpy as np
import pytest

from rlhf_jax.evaluation import label_warnings


def warnings_of(first, longer=0.5, rows=200, placed=True):
    """Of so many rows, these shares prefer the first response and the longer one."""
    share = np.arange(rows) < first * rows
    wins = np.random.default_rng(0).permutation(rows) < longer * rows
    lengths = np.where((share == wins)[:, None], [9, 5], [5, 9])
    return label_warnings(share.astype(float), lengths, [placed] * rows)


@pytest.mark.parametrize(("first", "warned"), [(0.95, True), (0.05, True), (0.65, True), (0.55, False), (0.5, False)])
def test_a_place_that_people_prefer(first, warned):
    found = warnings_of(first)
    assert len(found) == warned
    if warned:
        assert f"the first response is preferred in {first:.0%} of the rows" in found[0]


@pytest.mark.parametrize(("longer", "warned"), [(0.85, True), (0.8, False), (0.2, False)])
def test_a_length_that_people_prefer(longer, warned):
    found = warnings_of(0.5, longer)
    assert len(found) == warned
    if warned:
        assert "people prefer the longer response in 85% of the rows" in found[0]


def test_an_order_that_the_layout_gives_says_nothing():
    assert warnings_of(1.0, placed=False) == []


def test_few_rows_say_nothing_and_chance_is_no_fault():
    assert warnings_of(1.0, rows=9) == []
    assert warnings_of(0.7, rows=10) == []  # seven of ten
    assert warnings_of(0.95, rows=20)


def test_ties_and_equal_lengths_do_not_count():
    assert label_warnings([0.5] * 50, [[9, 5]] * 50, [True] * 50) == []
    assert label_warnings([1.0, 0.0] * 25, [[5, 5]] * 50, [True] * 50) == []


def test_narrow_majorities_for_one_place_are_skewed_all_the_same():
    assert label_warnings([0.55] * 95 + [0.45] * 5, [[5, 5]] * 100, [True] * 100)
    assert label_warnings([0.95, 0.45] * 50, [[5, 5]] * 100, [True] * 100) == []
