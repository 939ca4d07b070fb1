"""Agreement while people compare: alpha by hand, one rater with the others, with golden items, with themselves."""

import pytest

from rlhf_jax import feedback
from rlhf_jax.compare import Item, agreement
from rlhf_jax.compare.records import Answer

ITEMS = {str(i): Item(f"{i}?", "a", "b", golden="a" if i >= 8 else None) for i in range(10)}


def said(rater, **by_kind):
    """Answers of a rater: ``fresh="ab-t"`` says a, b, nothing and tie of the items 0 to 3."""
    words = {"a": "a", "b": "b", "t": "tie", "x": "both_bad", "s": "skip"}
    return [
        Answer("", rater, str(8 + i if kind in ("golden", "calibration") else i), kind, words[letter], 1, 1.0, "")
        for kind, letters in by_kind.items()
        for i, letter in enumerate(letters)
        if letter != "-"
    ]


def test_alpha_is_krippendorffs_over_pairs_that_several_have_seen():
    answers = said("ann", fresh="abtab") + said("bo", fresh="abxb-")
    by_hand = feedback.krippendorff_alpha([[1, 1], [0, 0], [0.5, 0.5], [1, 0]])  # a tie lies halfway
    assert agreement(answers, ITEMS).alpha == pytest.approx(by_hand)
    # 8 answers, 3 a, 3 b and 2 ties: D_o = 2 (1^2) / 8, D_e = 2 (3*3*1 + 3*2/4 + 3*2/4) / (8*7)
    assert by_hand == pytest.approx(1 - (2 / 8) / (24 / 56))


@pytest.mark.parametrize("answers", [[], said("ann", fresh="ab"), said("ann", fresh="a") + said("bo", fresh="a")])
def test_alpha_is_not_there_where_it_is_not_defined(answers):
    assert agreement(answers, ITEMS).alpha is None


def test_a_rater_is_compared_with_the_majority_of_the_others():
    """cy's "b" of item 2 has no majority against it: ann and bo differ there."""
    answers = said("ann", fresh="aab") + said("bo", fresh="aaa") + said("cy", fresh="abb")
    found = agreement(answers, ITEMS).raters
    assert found["cy"].others == 0.5  # items 0 and 1
    assert found["ann"].others == 1.0  # bo and cy agree about item 0 alone
    assert found["cy"].answers == 3


def test_golden_calibration_and_repeats_are_apart():
    answers = said("ann", fresh="abt", golden="ab", calibration="bb", repeat="aax") + said("bo", fresh="abt")
    found = agreement(answers, ITEMS).raters
    assert (found["ann"].golden, found["ann"].calibration) == (0.5, 0.0)
    assert found["ann"].repeats == pytest.approx(2 / 3)  # "both bad" repeats a tie
    assert (found["bo"].golden, found["bo"].calibration, found["bo"].repeats) == (None, None, None)
    assert found["bo"].others == 1.0  # a repeat is not a second vote


def test_skips_say_nothing():
    found = agreement(said("ann", fresh="ss") + said("bo", fresh="ab"), ITEMS)
    assert found.alpha is None
    assert found.raters["ann"] == (0, None, None, None, None)
