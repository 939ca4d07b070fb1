import numpy as np
import pytest

from rlhf_jax.feedback import krippendorff_alpha, single_rater_accuracy

# 4 observers, 12 items, ratings missing: the example that the paper computes for every level of measurement
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
ITEMS = [[r[item] for r in OBSERVERS if r[item] is not None] for item in range(12)]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, alpha):
    assert krippendorff_alpha(ITEMS, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_is_one_for_agreement_and_zero_for_chance():
    assert krippendorff_alpha([[1, 1, 1], [3, 3]]) == 1
    noise = np.random.default_rng(0).integers(-4, 5, (3000, 10))
    assert krippendorff_alpha(list(noise)) == pytest.approx(0, abs=0.01)


def test_alpha_is_undefined_where_nothing_differs():
    with pytest.raises(ValueError, match=r"all ratings are 2\.0"):
        krippendorff_alpha([[2, 2], [2, 2]])
    with pytest.raises(ValueError, match="at least two ratings"):
        krippendorff_alpha([[2], [3]])
    with pytest.raises(ValueError, match="level='ratio'"):
        krippendorff_alpha([[2, 3]], "ratio")


def accuracy_by_counting(a, b):
    right = []
    for i in range(len(a)):
        for j in range(len(b)):
            others = [np.sign(x - y) for m, x in enumerate(a) for n, y in enumerate(b) if m != i and n != j]
            agree = np.sign(sum(others)) * np.sign(a[i] - b[j])
            right.append(0.5 + 0.5 * agree)
    return np.mean(right)


def test_one_person_against_the_others_is_what_counting_gives():
    generator = np.random.default_rng(0)
    ratings = [generator.integers(-4, 5, generator.integers(2, 9)) for _ in range(12)]
    pairs = np.array([[i, j] for i in range(12) for j in range(12) if i != j])
    found = single_rater_accuracy(ratings, pairs)
    expected = [accuracy_by_counting(ratings[i].tolist(), ratings[j].tolist()) for i, j in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_people_who_agree_are_always_right_and_noise_is_a_coin():
    assert single_rater_accuracy([[1, 1, 1], [3, 3, 3]], [[0, 1], [1, 0]]).tolist() == [1, 1]
    assert single_rater_accuracy([[1, 2], [1, 2]], [[0, 1]]).shape == (1,)
    noise = list(np.random.default_rng(0).integers(-4, 5, (200, 25)))
    pairs = np.arange(200).reshape(-1, 2)
    assert single_rater_accuracy(noise, pairs).mean() == pytest.approx(0.5, abs=0.05)
    assert single_rater_accuracy(noise, np.zeros((0, 2))).shape == (0,)
