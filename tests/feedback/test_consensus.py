"""Judges and people in one table: planted accuracies, order, and labels of votes."""

import numpy as np
import pytest

from rlhf_jax import feedback


def planted(accuracies, items=2000, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    right = rng.random((items, len(accuracies))) < np.asarray(accuracies)
    return np.where(right, truth[:, None], 1 - truth[:, None]), truth


def test_accuracies_that_were_planted_are_found_without_the_truth():
    accuracies = [0.9, 0.85, 0.8, 0.75, 0.5]
    labels, truth = planted(accuracies)
    found = feedback.consensus(labels)
    np.testing.assert_allclose(found.right, accuracies, atol=0.03)
    assert np.mean((found.share > 0.5) == (truth == 0)) > 0.92  # together they are better than the best of them


def test_a_copy_is_taken_for_better_than_it_is():
    """Raters are taken to err independently; two copies of one poor judge outvote two good people."""
    labels, _ = planted([0.85, 0.85, 0.7])
    twice = feedback.consensus(np.concatenate([labels, labels[:, 2:]], axis=1))
    assert twice.right[2] > 0.9
    assert feedback.consensus(labels).right[2] == pytest.approx(0.7, abs=0.04)


def test_which_response_is_first_means_nothing():
    labels, _ = planted([0.8, 0.7, 0.9], items=200)
    labels[::5, 1] = 2
    there, turned = feedback.consensus(labels), feedback.consensus(np.array([1, 0, 2])[labels])
    np.testing.assert_allclose(turned.share, 1 - there.share, atol=1e-5)
    np.testing.assert_allclose(turned.right, there.right, atol=1e-5)


def test_pairs_and_raters_without_labels_have_no_figure():
    found = feedback.consensus([[0, 0, -1], [-1, -1, -1], [1, 1, -1]])
    assert np.isnan(found.share).tolist() == [False, True, False]
    assert np.isnan(found.right).tolist() == [False, False, True]
    with pytest.raises(ValueError, match="no pair has a label"):
        feedback.consensus([[-1]])
