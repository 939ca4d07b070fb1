"""Near-duplicates by hashes are those that comparing every two texts finds, and only those."""

import itertools
import random

import numpy as np
import pytest

from rlhf_jax.data.near_duplicates import near_duplicates, words_of


def overlap(first, second):
    """The overlap of two texts from their definition."""
    one, other = ({*words, *itertools.pairwise(words)} for words in map(words_of, (first, second)))
    return len(one & other) / len(one | other)


def texts(count, draw):
    return [" ".join(draw.choices([f"w{i}" for i in range(500)], k=30)) for _ in range(count)]


def test_the_same_pairs_as_by_comparing_all():
    """Copies with one word changed: 30 words and 29 pairs become 28 + 1 and 27 + 2, so 56 of 62 or so are common."""
    draw = random.Random(0)
    rows = texts(60, draw)
    for place in range(0, 60, 2):
        words = rows[place].split()
        words[draw.randrange(30)] = "other"
        rows.append(" ".join(words))
    expected = {pair for pair in itertools.combinations(range(90), 2) if overlap(rows[pair[0]], rows[pair[1]]) >= 0.8}
    assert len(expected) == 30
    assert {tuple(group) for group in near_duplicates(rows)} == expected


def test_the_least_overlap_decides():
    """Two texts of ten words differ in the last: 9 + 8 of 21 words and pairs are in both, 0.81."""
    first = "one two three four five six seven eight nine ten"
    second = "one two three four five six seven eight nine eleven"
    assert overlap(first, second) == pytest.approx(17 / 21)
    assert near_duplicates([first, second]) == [[0, 1]]
    assert near_duplicates([first, second], least=0.82) == []


def test_order_of_words_matters_and_case_does_not():
    words = [f"word{i}" for i in range(20)]
    shuffled = np.random.default_rng(0).permutation(words)
    assert near_duplicates([" ".join(words), " ".join(shuffled)]) == []
    assert near_duplicates([" ".join(words), " ".join(words).upper() + "!"]) == [[0, 1]]


def test_texts_without_words_and_without_spaces():
    asked = "法国北部最大的三个城市是哪三个请列出来"
    assert near_duplicates(["", "??", "??", asked, f"{asked}吧"]) == [[1, 2], [3, 4]]
    assert near_duplicates(["alone"]) == []


def test_a_chain_is_one_group():
    """Each is nearly the next one, though the first and the last are not."""
    words = [f"w{i}" for i in range(40)]
    steps = [" ".join(["x"] * n + words[n:]) for n in range(9)]
    assert overlap(steps[0], steps[8]) < 0.8
    assert near_duplicates([*steps, "something else"]) == [list(range(9))]


def test_an_overlap_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"least must lie above 0\.5 and be at most 1, found 0\.5"):
        near_duplicates(["a", "b"], least=0.5)
