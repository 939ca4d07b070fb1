"""The share that length explains, by hand and against a plain regression."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation.monitors import length_share


def test_half_of_the_gain_is_length():
    """Reward is length / 10 and, after training, 1 more for something else: ten characters are 1 of the 2 gained."""
    before = np.array([10, 20, 30, 40])
    found = length_share(before, before + 10, before / 10, (before + 10) / 10 + 1)
    assert found.slope == pytest.approx(0.1)
    assert found.gain == pytest.approx(2)
    assert found.share == pytest.approx(0.5)
    assert found.share_ci == pytest.approx((0.5, 0.5))
    assert (found.r2_before, found.r2) == pytest.approx((1, 1))
    assert (found.length_before, found.length_after) == (25, 35)


def test_the_variance_explained_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    length, after = rng.integers(10, 90, size=(2, 50))
    reward, later = rng.normal(size=(2, 50)) + np.stack([length, after]) / 40
    found = length_share(length, after, reward, later)
    assert found.r2_before == pytest.approx(np.corrcoef(length, reward)[0, 1] ** 2)
    assert found.r2 == pytest.approx(np.corrcoef(after, later)[0, 1] ** 2)
    # One slope, and a mean for either policy.
    design = np.zeros((100, 3))
    design[:50, 0], design[50:, 1], design[:, 2] = 1, 1, [*length, *after]
    slope = np.linalg.lstsq(design, np.array([*reward, *later]), rcond=None)[0][2]
    assert found.slope == pytest.approx(slope)


def test_longer_and_worse_for_it_is_a_share_below_0():
    before = np.array([10, 20, 30, 40])
    assert length_share(before, before + 10, -before / 10, -(before + 10) / 10 + 3).share == pytest.approx(-0.5)


def test_nothing_is_said_where_nothing_is_known():
    same = [5, 5, 5]
    found = length_share(same, same, [1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (found.r2_before, found.r2, found.slope, found.share, found.share_ci) == (None,) * 5
    # A gain within its noise has no shares.
    found = length_share([1, 2, 3], [2, 3, 4], [1.0, 2.0, 3.0], [3.0, 1.0, 2.5])
    assert found.slope is not None
    assert found.share is None
    with pytest.raises(ValueError, match="n >= 2"):
        length_share([1], [1], [1.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        length_share([1, 2], [1, 2], [1.0, math.inf], [1.0, 2.0])
