"""One label from many: counted by hand, against loops, and on raters whose errors were planted."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax.feedback import dawid_skene, majority


def planted(n_items, priors, confusion, *, seed=0, missing=0.0):
    """True labels, and what raters with those confusion matrices say; every item keeps at least one label."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(priors), n_items, p=priors)
    upto = np.cumsum(confusion, axis=-1)[:, truth].transpose(1, 0, 2)  # [n_items, n_raters, classes]
    labels = (rng.random((n_items, len(confusion), 1)) > upto[..., :-1]).sum(-1)
    hidden = rng.random(labels.shape) < missing
    hidden[np.arange(n_items), rng.integers(0, len(confusion), n_items)] = False
    return truth, np.where(hidden, -1, labels)


def right(rate, classes=2):
    """The confusion matrix of a rater who is right that often, and wrong in no particular way."""
    return np.full((classes, classes), (1 - rate) / (classes - 1)) + np.eye(classes) * (
        rate - (1 - rate) / (classes - 1)
    )


def log_likelihood(labels, priors, confusion):
    total = 0.0
    for row in labels:
        of_class = priors.copy()
        for k, label in enumerate(row):
            if label >= 0:
                of_class *= confusion[k, :, label]
        total += np.log(of_class.sum())
    return total


def test_majority_by_hand():
    labels = [[0, 0, 1], [2, 1, 1], [0, 1, 2], [2, -1, -1], [0, 1, -1], [2, 2, 2]]
    assert majority(labels, classes=3).tolist() == [0, 1, -1, 2, -1, 2]


def test_one_step_by_hand():
    # Shares of the votes: item 0 (2/3, 1/3), item 1 (0, 1). So p = (1/3, 2/3). Raters 0 and 1 said 0 then 1: of the
    # 2/3 items of class 0 all were called 0, of the 4/3 of class 1 a quarter were. Rater 2 only ever said 1.
    # Item 0: 1/3 * 1 * 1 * 1 = 8/24 against 2/3 * 1/4 * 1/4 * 1 = 1/24.
    found = dawid_skene([[0, 0, 1], [1, 1, 1]], classes=2, iterations=1, smoothing=0)
    np.testing.assert_allclose(found.priors, [1 / 3, 2 / 3])
    np.testing.assert_allclose(found.confusion[:2], [[[1, 0], [1 / 4, 3 / 4]]] * 2, atol=1e-15)
    np.testing.assert_allclose(found.confusion[2], [[0, 1], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(found.posteriors, [[8 / 9, 1 / 9], [0, 1]], atol=1e-15)
    assert found.iterations == 1


def test_smoothing_adds_labels_to_every_cell():
    found = dawid_skene([[0, 0, 1], [1, 1, 1]], classes=2, iterations=1, smoothing=0.5)
    np.testing.assert_allclose(found.confusion[0, 0], [(2 / 3 + 0.5) / (2 / 3 + 1), 0.5 / (2 / 3 + 1)])
    np.testing.assert_allclose(found.confusion[2, 1], [0.5 / (4 / 3 + 1), (4 / 3 + 0.5) / (4 / 3 + 1)])


def test_steps_are_those_of_loops():
    confusion = [right(0.8, 3), right(0.6, 3), right(0.5, 3), right(0.7, 3)]
    _, labels = planted(30, [0.2, 0.3, 0.5], confusion, missing=0.3)
    t = np.array([[np.mean(row[row >= 0] == j) for j in range(3)] for row in labels])
    for _ in range(4):
        p = t.mean(0)
        pi = np.full((4, 3, 3), 0.1)
        for k in range(4):
            for i in range(30):
                if labels[i, k] >= 0:
                    pi[k, :, labels[i, k]] += t[i]
        pi /= pi.sum(-1, keepdims=True)
        t = np.array(
            [[p[j] * np.prod([pi[k, j, x] for k, x in enumerate(r) if x >= 0]) for j in range(3)] for r in labels]
        )
        t /= t.sum(-1, keepdims=True)
    found = dawid_skene(labels, classes=3, iterations=4, tolerance=0, smoothing=0.1)
    np.testing.assert_allclose(found.priors, p, rtol=1e-9)
    np.testing.assert_allclose(found.confusion, pi, rtol=1e-9)
    np.testing.assert_allclose(found.posteriors, t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_planted_errors_are_recovered(missing):
    # a rater who takes class 2 for class 1, one who is careless, one who says 0 when in doubt, two who are good
    confusion = np.array(
        [
            [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.75, 0.2]],
            right(0.5, 3),
            [[0.9, 0.05, 0.05], [0.4, 0.55, 0.05], [0.4, 0.05, 0.55]],
            right(0.85, 3),
            right(0.9, 3),
        ]
    )
    priors = [0.5, 0.3, 0.2]
    truth, labels = planted(20_000, priors, confusion, missing=missing)
    found = dawid_skene(labels, classes=3, iterations=500)
    assert found.iterations < 500
    np.testing.assert_allclose(found.priors, priors, atol=0.015)
    np.testing.assert_allclose(found.confusion, confusion, atol=0.04)
    by_majority = majority(labels, classes=3)
    assert (found.posteriors.argmax(-1) == truth).mean() > (by_majority == truth).mean() + 0.03
    # and it knows how sure it may be
    sure = found.posteriors.max(-1)
    assert sure.mean() == pytest.approx((found.posteriors.argmax(-1) == truth).mean(), abs=0.01)


def test_one_good_rater_outweighs_many_poor_ones():
    truth, labels = planted(2000, [0.5, 0.5], [right(0.95), *[right(0.62)] * 6])
    found = dawid_skene(labels, classes=2, iterations=1000)
    accuracy = (found.posteriors.argmax(-1) == truth).mean()
    assert (majority(labels, classes=2) == truth).mean() < 0.86
    assert accuracy > 0.93
    assert found.confusion[0].diagonal() == pytest.approx([0.95, 0.95], abs=0.04)
    assert found.confusion[1:].diagonal(axis1=1, axis2=2) == pytest.approx(np.full((6, 2), 0.62), abs=0.05)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 1.0])
def test_the_likelihood_never_falls(smoothing):
    _, labels = planted(60, [0.3, 0.7], [right(0.9), right(0.6), right(0.55), right(0.7)], seed=3, missing=0.2)
    reached = []
    for steps in range(1, 40):
        found = dawid_skene(labels, classes=2, iterations=steps, tolerance=0, smoothing=smoothing)
        # without smoothing a cell may be 0, and is then not part of what is maximised
        prior = smoothing * np.log(found.confusion).sum() if smoothing else 0.0
        reached.append(log_likelihood(labels, found.priors, found.confusion) + prior)
    assert (np.diff(reached) >= -1e-9).all()
    assert reached[-1] > reached[0] + 0.1


def test_raters_who_agree_are_believed_and_infallible():
    truth = np.array([0, 1, 2, 2, 1, 0, 2])
    labels = np.repeat(truth[:, None], 4, axis=1)
    exact = dawid_skene(labels, classes=3, smoothing=0)
    np.testing.assert_array_equal(exact.posteriors, np.eye(3)[truth])
    np.testing.assert_array_equal(exact.confusion, np.tile(np.eye(3), (4, 1, 1)))
    np.testing.assert_allclose(exact.priors, [2 / 7, 2 / 7, 3 / 7])
    assert exact.iterations == 1
    smooth = dawid_skene(labels, classes=3)
    np.testing.assert_allclose(smooth.posteriors, np.eye(3)[truth], atol=1e-6)
    assert (majority(labels, classes=3) == truth).all()


def test_a_class_that_nobody_named_has_no_share():
    found = dawid_skene([[0, 1], [1, 1]], classes=3)
    assert found.priors[2] == 0
    np.testing.assert_allclose(found.confusion[:, 2], 1 / 3)
    assert np.isfinite(found.posteriors).all()


def test_a_rater_who_labelled_nothing_changes_nothing():
    _, labels = planted(50, [0.4, 0.6], [right(0.8), right(0.7), right(0.6)], missing=0.2)
    without = dawid_skene(labels, classes=2)
    silent = dawid_skene(np.column_stack([labels, np.full(50, -1)]), classes=2)
    np.testing.assert_array_equal(silent.posteriors, without.posteriors)
    np.testing.assert_array_equal(silent.confusion[:3], without.confusion)
    np.testing.assert_array_equal(silent.confusion[3], np.full((2, 2), 0.5))


def test_neither_the_order_of_items_nor_that_of_raters_matters():
    _, labels = planted(40, [0.4, 0.6], [right(0.8), right(0.7), right(0.6)], missing=0.2)
    rng = np.random.default_rng(1)
    items, raters = rng.permutation(40), rng.permutation(3)
    found, mixed = (dawid_skene(x, classes=2, iterations=30, tolerance=0) for x in (labels, labels[items][:, raters]))
    np.testing.assert_allclose(mixed.posteriors, found.posteriors[items], atol=1e-9)
    np.testing.assert_allclose(mixed.confusion, found.confusion[raters], atol=1e-9)


def test_very_many_raters_do_not_underflow():
    truth, labels = planted(20, [0.5, 0.5], [right(0.7)] * 3000)
    found = dawid_skene(labels, classes=2)
    assert (found.posteriors.argmax(-1) == truth).all()
    np.testing.assert_allclose(found.posteriors.sum(-1), 1)


def test_it_stops_where_nothing_moves_or_where_it_is_told_to():
    _, labels = planted(200, [0.4, 0.6], [right(0.8), right(0.7), right(0.6)])
    assert dawid_skene(labels, classes=2, iterations=3, tolerance=0).iterations == 3
    loose, tight = (dawid_skene(labels, classes=2, iterations=500, tolerance=t).iterations for t in (1e-2, 1e-5))
    assert 1 < loose < tight < 500


@pytest.mark.parametrize("aggregate", [majority, dawid_skene])
@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([[0, 1]], 1, "classes must be at least 2, found 1"),
        ([0, 1], 2, r"integer labels \[n_items, n_raters\], found int64 \[2\]"),
        ([[0.5, 1.0]], 2, "integer labels .* found float64"),
        (np.zeros((0, 3), int), 2, "integer labels"),
        ([[0, 2]], 2, "labels must lie in -1 to 1, found 0 to 2"),
        ([[0, -2]], 2, "labels must lie in -1 to 1, found -2 to 0"),
        ([[0, 1], [-1, -1]], 2, "item 1 has no label"),
    ],
)
def test_nonsense_is_refused(aggregate, labels, classes, message):
    with pytest.raises(ValueError, match=message):
        aggregate(np.asarray(labels), classes=classes)


@pytest.mark.parametrize(("name", "value"), [("iterations", 0), ("tolerance", -1.0), ("smoothing", float("nan"))])
def test_nonsense_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        dawid_skene([[0, 1]], classes=2, **{name: value})
