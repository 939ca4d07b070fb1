"""What raters are worth, against worked numbers and against raters whose accuracy was planted."""

import numpy as np
import pytest

from rlhf_jax import feedback


def simulated(accuracies, items, seed, missing=0.0):
    """Raters who are each right with a probability of their own, on pairs with a truth of either kind."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    right = rng.random((items, len(accuracies))) < np.asarray(accuracies)
    labels = np.where(right, truth[:, None], 1 - truth[:, None])
    return np.where(rng.random(labels.shape) < missing, -1, labels), truth


def test_agreement_with_the_others_leaves_the_rater_out():
    """With the rater's own label in it, the majority of three would be two of four times another one."""
    labels = [[0, 0, 1], [1, 1, 1], [0, 1, -1], [2, 0, 0]]
    agreement, n = feedback.agreement_with_others(labels)
    # First: others say {0,1}: none; 1; 1 against 0: opposite; tie against 0: half.
    np.testing.assert_allclose(agreement, [(1 + 0 + 0.5) / 3, (1 + 0 + 1) / 3, (0 + 1 + 1) / 3])
    assert n.tolist() == [3, 3, 3]
    alone, count = feedback.agreement_with_others([[0, -1], [1, -1]])
    assert np.isnan(alone).all()
    assert count.tolist() == [0, 0]
    # Where all others say tie, that is what they say.
    np.testing.assert_allclose(feedback.agreement_with_others([[2, 2, 2], [0, 2, 2]])[0], [0.75, 0.75, 0.75])


def test_agreement_with_golden_answers_by_hand():
    agreement, n = feedback.agreement_with_golden([[0, 1], [1, 2], [2, -1], [0, 0]], [0, 1, 2, -1])
    np.testing.assert_allclose(agreement, [1.0, (0 + 0.5) / 2])
    assert n.tolist() == [3, 2]


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_a_weight_is_how_far_a_rater_of_known_accuracy_is_beyond_chance(missing):
    """With two classes of equal frequency kappa is ``2 accuracy - 1``, whoever else labelled."""
    accuracies = [0.95, 0.9, 0.8, 0.7, 0.5]
    labels, truth = simulated(accuracies, 4000, seed=0, missing=missing)
    planted = 2 * np.array(accuracies) - 1
    np.testing.assert_allclose(feedback.rater_weights(labels), planted, atol=0.06)
    # Known answers are an independent reference: with all of them known nothing is estimated but the confusions.
    np.testing.assert_allclose(feedback.rater_weights(labels, golden=truth), planted, atol=0.05)


def test_who_always_says_the_same_or_the_opposite_weighs_nothing():
    truth = np.array([0, 1] * 30)
    labels = np.stack([truth, truth, truth, np.zeros(60, int), np.full(60, 2), 1 - truth], axis=1)
    weights = feedback.rater_weights(labels)
    assert (weights[:3] > 0.85).all()
    np.testing.assert_allclose(weights[3:], 0, atol=0.02)


def test_golden_answers_decide_where_most_raters_are_wrong():
    """Estimation alone takes the majority's word; answers that are known do not."""
    truth = np.array([0, 1] * 30)
    labels = np.stack([truth, 1 - truth, 1 - truth], axis=1)
    alone = feedback.rater_weights(labels)
    assert alone[0] == 0
    assert (alone[1:] > 0.9).all()
    known = feedback.rater_weights(labels, golden=truth)
    assert known[0] > 0.9
    assert (known[1:] == 0).all()


def test_a_rater_of_few_labels_is_not_yet_taken_for_good():
    truth = np.array([0, 1] * 30)
    few = np.where(np.arange(60) < 1, truth, -1)
    weights = feedback.rater_weights(np.stack([truth, truth, few], axis=1))
    assert weights[2] == pytest.approx(1 / 3, abs=0.02)


def test_who_labels_alone_counts_as_the_mean_of_the_others():
    """The more pairs nobody else sees, the surer an estimate from them would be of a rater who tosses a coin."""
    labels, _ = simulated([0.9, 0.8, 0.5], 600, seed=6)
    shared = feedback.rater_weights(labels)
    alone = np.full((3000, 4), -1)
    alone[:, 3] = np.random.default_rng(6).integers(0, 2, 3000)
    alone[:1000, 0], alone[:1000, 3] = 0, -1  # the first, too, has pairs alone, which change nothing
    weights = feedback.rater_weights(np.concatenate([np.pad(labels, ((0, 0), (0, 1)), constant_values=-1), alone]))
    np.testing.assert_array_equal(weights, [*shared, shared.mean()])
    assert feedback.rater_weights([[0, -1], [-1, 1]]).tolist() == [1, 1]


def test_which_response_is_called_the_first_means_nothing():
    """Where the first is the better one of every pair, a kappa of the labels as they stand would be 0 for everybody."""
    labels, truth = simulated([0.95, 0.9, 0.8, 0.5], 2000, seed=5)
    all_first = np.where(truth[:, None] == 1, 1 - labels, labels)
    np.testing.assert_allclose(feedback.rater_weights(all_first), feedback.rater_weights(labels), atol=1e-9)
    np.testing.assert_allclose(feedback.rater_weights(all_first), [0.9, 0.8, 0.6, 0], atol=0.06)


def test_ties_alone_tell_nobody_from_anybody():
    assert feedback.rater_weights([[2, 2], [2, -1]]).tolist() == [1, 1]


def test_known_answers_are_not_estimated():
    labels = np.array([[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, -1]])
    found = feedback.dawid_skene(labels, classes=2, known=np.array([1, 0, -1, -1]))
    np.testing.assert_array_equal(found.posteriors[:2], [[0, 1], [1, 0]])
    assert found.posteriors[2].argmax() == 1  # who was right about the known ones is believed
    without = feedback.dawid_skene(labels, classes=2)
    none = feedback.dawid_skene(labels, classes=2, known=np.full(4, -1))
    np.testing.assert_array_equal(without.posteriors, none.posteriors)
    with pytest.raises(ValueError, match="known must lie in -1 to 1, found 0 to 2"):
        feedback.dawid_skene(labels, classes=2, known=np.array([0, 2, 0, 0]))
    with pytest.raises(ValueError, match="known must be one whole number an item"):
        feedback.dawid_skene(labels, classes=2, known=np.array([0]))


def test_alpha_of_labels_is_krippendorffs_with_ties_halfway():
    labels = [[0, 0, 2], [1, 1, -1], [0, 1, 1], [2, -1, -1]]
    expected = feedback.krippendorff_alpha([[1, 1, 0.5], [0, 0], [1, 0, 0]])
    assert feedback.label_alpha(labels) == pytest.approx(expected)


def test_drift_is_seen_where_it_was_planted():
    """The last rater is right in the first half of the time, and guesses in the second."""
    labels, truth = simulated([0.95, 0.95, 0.95, 0.95], 1000, seed=1)
    rng = np.random.default_rng(2)
    labels[500:, 3] = rng.integers(0, 2, 500)
    order = rng.permutation(1000)  # the rows' order says nothing, the times do
    times = np.argsort(order)[:, None] * np.ones(4)
    shuffled = np.empty_like(labels)
    shuffled[np.arange(1000)] = labels[np.argsort(order)]
    found = feedback.drift(shuffled, times)
    assert abs(found.change[:3]).max() < 0.1  # whose majority has a guesser in it, later on
    assert found.change[3] == pytest.approx(-0.45, abs=0.06)
    assert (found.early_n + found.late_n <= 1000).all()
    periods = feedback.by_period(shuffled, times, periods=4)
    assert periods.n.sum() == 4000
    assert periods.agreement[:2, 3].min() > 0.9
    assert periods.agreement[2:, 3] == pytest.approx(0.5, abs=0.1)
    assert periods.alpha[:2].min() > periods.alpha[2:].max() + 0.1
    report = feedback.rater_report(labels, times, golden=truth)
    np.testing.assert_allclose(report.golden[:3], 0.95, atol=0.03)
    assert report.weight[3] < report.weight[:3].min()


def test_labels_without_a_time_are_in_no_half():
    found = feedback.drift(np.array([[0, 0, 0], [1, 1, 1]]), np.full((2, 3), np.nan))
    assert np.isnan(found.early).all()
    assert np.isnan(found.change).all()
    assert feedback.by_period(np.array([[0, 0]]), np.full((1, 2), np.nan)).start.shape == (0,)


def test_who_disagrees_with_known_answers_goes():
    labels, truth = simulated([0.95, 0.9, 0.5], 300, seed=3)
    golden = np.where(np.arange(300) < 40, truth, -1)
    found = feedback.kept_raters(labels, golden)
    assert found.keep.tolist() == [True, True, False]
    assert found.by == ("golden",) * 3
    assert found.n.tolist() == [40] * 3
    assert found.least.tolist() == [0.7] * 3
    # Without known answers the majority of the others measures them.
    others = feedback.kept_raters(labels)
    assert (others.keep.tolist(), set(others.by), others.least[0]) == ([True, True, False], {"others"}, 0.6)
    assert not feedback.kept_raters(labels, golden, least=0.99).keep.any()


def test_of_whom_little_is_known_nobody_is_shown_to_be_bad():
    labels = np.where(np.arange(20)[:, None] < [20, 20, 4], [[0, 0, 1]], -1)
    found = feedback.kept_raters(labels)
    assert found.keep.tolist() == [False, False, True] or found.keep.tolist() == [True, True, True]
    assert found.by[2] == "nothing"
    assert np.isnan(found.agreement[2])


def test_what_is_no_table_of_labels_is_refused():
    with pytest.raises(ValueError, match="labels must lie in -1 to 2, found 0 to 3"):
        feedback.agreement_with_others([[0, 3]])
    with pytest.raises(ValueError, match="expected integer labels"):
        feedback.rater_weights([[0.5, 1]])
    with pytest.raises(ValueError, match="expected golden answers"):
        feedback.agreement_with_golden([[0, 1]], [0, 1])
    with pytest.raises(ValueError, match="expected times"):
        feedback.drift(np.array([[0, 1]]), np.zeros(2))
    with pytest.raises(ValueError, match="least must lie between 0 and 1"):
        feedback.kept_raters(np.array([[0, 1]]), least=2)
