import numpy as np
import pytest

from rlhf_jax.feedback import histograms, random_pairs, vote_share, votes, votes_from_histograms


def share_by_counting(a, b):
    return np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b])


def test_vote_share_is_what_counting_every_pair_of_raters_gives():
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = (
            generator.integers(-4, 5, generator.integers(1, 30)),
            generator.normal(size=generator.integers(1, 9)).round(1),
        )
        assert vote_share(a, b) == pytest.approx(share_by_counting(a, b), abs=1e-6)
        assert vote_share(a, b) + vote_share(b, a) == pytest.approx(1)


def test_the_ends_and_the_middle():
    assert vote_share([3, 4], [1, 2, 2]) == 1
    assert vote_share([0], [1]) == 0
    assert vote_share([1, 1], [1]) == 0.5


def test_votes_of_a_pair_sum_to_its_raters():
    ratings = [np.array([1, 2, 3]), np.array([2, 2]), np.array([-1, 0, 4, 4])]
    table = votes(ratings)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(np.diag(table), 0)
    for i in range(3):
        for j in range(3):
            if i != j:
                raters = min(len(ratings[i]), len(ratings[j]))
                assert table[i, j] == pytest.approx(raters * share_by_counting(ratings[i], ratings[j]))
                assert table[i, j] + table[j, i] == pytest.approx(raters)


def test_many_groups_at_once():
    generator = np.random.default_rng(1)
    ratings = [generator.integers(-4, 5, 12) for _ in range(4000)]
    levels = np.arange(-4, 5)
    groups = histograms(ratings, levels).reshape(1000, 4, 9)
    tables = votes_from_histograms(groups)
    assert tables.shape == (1000, 4, 4)
    np.testing.assert_allclose(tables[17], votes(ratings[68:72]), rtol=1e-6)


def test_bad_ratings_are_refused():
    with pytest.raises(ValueError, match="response 1 has no ratings"):
        votes([[1], []])
    with pytest.raises(ValueError, match="a rating is nan"):
        votes([[1], [np.nan]])
    with pytest.raises(ValueError, match=r"rating 1\.5 is not one of the levels"):
        histograms([[1, 1.5]], levels=np.arange(3))
    with pytest.raises(ValueError, match=r"rating 7\.0 is not one of the levels"):
        histograms([[1, 7]], levels=np.arange(3))


def test_random_pairs_stay_in_a_domain_and_use_every_sentence_alike():
    domains = ["x"] * 30 + ["y"] * 5 + ["z"] * 2 + ["w"]
    pairs = random_pairs(domains, 3, seed=0)
    assert pairs.shape == (3 * (30 + 5 + 1), 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert all(domains[a] == domains[b] for a, b in pairs)
    uses = np.bincount(pairs.reshape(-1), minlength=len(domains))
    assert set(uses[:35]) == {6}
    assert uses[-1] == 0
    np.testing.assert_array_equal(pairs, random_pairs(domains, 3, seed=0))
    assert not np.array_equal(pairs, random_pairs(domains, 3, seed=1))
    assert random_pairs([], 3, seed=0).shape == (0, 2)
