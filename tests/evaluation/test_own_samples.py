"""How a reward orders a policy's own samples, held against a judge: by hand, and against Kendall's tau."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from rlhf_jax.evaluation import ordered_alike, ordered_alike_interval


def test_by_hand():
    # Pairs by judge: (0, 1) alike, (0, 2) not, (1, 2) not; sample 3 is as good as 0, and its reward as high as 1's.
    found = ordered_alike([1.0, 2.0, 0.0, 2.0], [0.0, 1.0, 2.0, 0.0])
    assert found.pairs == 5  # (0, 3) the judge does not tell apart
    # (1, 3): equal rewards, half; (2, 3): not
    assert found.accuracy == (1 + 0 + 0 + 0.5 + 0) / 5


def test_it_is_kendalls_tau_moved_to_a_share():
    rng = np.random.default_rng(0)
    reward, judge = rng.normal(size=(2, 60))
    judge += reward
    assert ordered_alike(reward, judge).accuracy == pytest.approx((1 + kendalltau(reward, judge).statistic) / 2)


def test_a_judge_that_tells_nothing_apart_says_nothing():
    assert ordered_alike([1.0, 2.0], [0.0, 0.0]) is None
    assert ordered_alike_interval([1.0, 2.0], [0.0, 0.0]) is None


def test_many_samples_are_thinned_out_evenly():
    n = 3000
    found = ordered_alike(np.arange(n), np.arange(n))
    assert found == (1.0, 256 * 255 // 2)


def test_a_reward_unlike_the_judge_has_one_half_in_its_interval():
    rng = np.random.default_rng(1)
    low, high = ordered_alike_interval(*rng.normal(size=(2, 100)))
    assert low < 0.5 < high < 1


def test_scores_have_to_be_finite():
    with pytest.raises(ValueError, match="finite"):
        ordered_alike([np.nan], [0.0])
