import numpy as np
import pytest

from rlhf_jax.feedback import fleiss_kappa, krippendorff_alpha, single_rater_accuracy

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


# 14 raters put 10 subjects in 5 categories: the example of the encyclopaedias
SUBJECTS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def as_ratings(counts):
    return [np.repeat(np.arange(len(row)), row) for row in counts]


def test_kappa_of_the_well_known_example():
    # Of 140 ratings 20, 28, 39, 21, 32 are of each category: P_e = (400 + 784 + 1521 + 441 + 1024) / 19600 = 0.2128.
    # Of the 14 * 13 = 182 ordered pairs of ratings of a subject these agree:
    agree = [182, 46, 56, 80, 60, 84, 44, 32, 52, 52]
    assert agree == [sum(c * (c - 1) for c in row) for row in SUBJECTS]
    by_chance = 4170 / 19600
    expected = (sum(agree) / 1820 - by_chance) / (1 - by_chance)
    assert fleiss_kappa(SUBJECTS) == pytest.approx(expected, rel=1e-12)
    assert fleiss_kappa(SUBJECTS) == pytest.approx(0.210, abs=5e-4)


def test_kappa_is_nominal_alpha_without_its_correction_for_few_ratings():
    for counts in (SUBJECTS, [[2, 0], [1, 1], [0, 2]], np.random.default_rng(0).multinomial(5, [0.2, 0.3, 0.5], 20)):
        kappa, ratings = fleiss_kappa(counts), np.sum(counts)
        alpha = krippendorff_alpha(as_ratings(counts), "nominal")
        assert alpha == pytest.approx(kappa + (1 - kappa) / ratings, rel=1e-9)


def test_kappa_is_one_for_agreement_zero_for_chance_and_bounded_below():
    assert fleiss_kappa([[4, 0, 0], [0, 4, 0], [4, 0, 0]]) == 1
    assert fleiss_kappa([[1, 1, 1]] * 5) == pytest.approx(-1 / 2)
    noise = np.random.default_rng(0).multinomial(6, [0.5, 0.3, 0.2], 5000)
    assert fleiss_kappa(noise) == pytest.approx(0, abs=0.02)


def test_kappa_does_not_mind_the_order_nor_categories_nobody_chose():
    mixed = np.array(SUBJECTS)[::-1, [3, 0, 4, 1, 2]]
    assert fleiss_kappa(np.column_stack([mixed, np.zeros(10)])) == pytest.approx(fleiss_kappa(SUBJECTS), rel=1e-12)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[2, 1], [1, 1]], "item 0 has 3 ratings and item 1 has 2; .*krippendorff_alpha"),
        ([[1, 0], [0, 1]], "at least two ratings an item, found 1"),
        ([[3, 0], [3, 0]], "all ratings are of one category"),
        ([[3, -1], [1, 1]], "whole numbers of at least 0"),
        ([[0.5, 0.5]], "whole numbers of at least 0"),
        ([1, 2], r"\[n_items, n_categories\], found shape \(2,\)"),
    ],
)
def test_kappa_refuses_what_it_is_not_for(counts, message):
    with pytest.raises(ValueError, match=message):
        fleiss_kappa(counts)
