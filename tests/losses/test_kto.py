import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses

RNG = np.random.default_rng(0)
LOGPROBS, REF = -20 + 5 * RNG.normal(size=(2, 4, 3))
DESIRABLE = RNG.integers(0, 2, size=(4, 3))
kto = functools.partial(losses.kto, beta=0.3)


def test_worked_numbers():
    # a log-ratio of 4 nats, 2 above the reference point: sigmoid(0.5 * 2) = e / (1 + e)
    up, down = (losses.kto(-8.0, -12.0, thumb, 2.0, beta=0.5) for thumb in (True, False))
    np.testing.assert_allclose(up, 1 / (1 + np.e), rtol=1e-6)
    np.testing.assert_allclose(down, np.e / (1 + np.e), rtol=1e-6)
    weighted = losses.kto(-8.0, -12.0, 0, 2.0, beta=0.5, desirable_weight=7.0, undesirable_weight=3.0)
    np.testing.assert_allclose(weighted, 3 * np.e / (1 + np.e), rtol=1e-6)


def test_against_numpy():
    value = 1 / (1 + np.exp(-0.3 * (LOGPROBS - REF - 0.7) * np.where(DESIRABLE, 1, -1)))
    expected = np.where(DESIRABLE, 1.3, 0.9) * (1 - value)
    got = kto(LOGPROBS, REF, DESIRABLE, 0.7, desirable_weight=1.3, undesirable_weight=0.9)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_at_the_reference_point_everything_is_worth_half():
    np.testing.assert_allclose(kto(REF + 0.7, REF, DESIRABLE, 0.7), np.full((4, 3), 0.5), rtol=1e-6)


def test_thumbs_up_and_down_mirror_each_other():
    z = 0.7
    mirrored = kto(REF + z - (LOGPROBS - REF - z), REF, 1 - DESIRABLE, z)  # as far from z on the other side
    np.testing.assert_allclose(kto(LOGPROBS, REF, DESIRABLE, z), mirrored, rtol=1e-4)
    opposite = kto(LOGPROBS, REF, 1 - DESIRABLE, z)
    np.testing.assert_allclose(kto(LOGPROBS, REF, DESIRABLE, z) + opposite, np.ones((4, 3)), rtol=1e-6)


def test_up_is_raised_and_down_is_lowered_most_at_the_reference_point():
    slope = jax.grad(lambda s, thumb: kto(s, 0.0, thumb, 1.0))
    np.testing.assert_allclose(slope(1.0, True), -0.3 / 4, rtol=1e-6)
    np.testing.assert_allclose(slope(1.0, False), 0.3 / 4, rtol=1e-6)
    for far in (-9.0, 11.0):
        assert -0.3 / 4 < slope(far, True) < 0 < slope(far, False) < 0.3 / 4


def test_no_gradient_flows_into_the_reference_point():
    gradient = jax.grad(lambda kl: kto(LOGPROBS, REF, DESIRABLE, kl).sum())
    assert gradient(0.7) == 0
    assert not gradient(jnp.full((4, 3), 0.7)).any()


def test_one_reference_point_serves_all_responses():
    np.testing.assert_array_equal(
        kto(LOGPROBS, REF, DESIRABLE, 0.7), kto(LOGPROBS, REF, DESIRABLE, np.full((4, 3), 0.7))
    )


@pytest.mark.parametrize("gap", [1e4, -1e4, 1e6])
@pytest.mark.parametrize("desirable", [True, False])
def test_huge_log_ratios_stay_finite_and_within_the_weight(gap, desirable):
    value, gradient = jax.value_and_grad(lambda s: kto(s, 0.0, desirable, 0.0))(gap)
    assert 0 <= value <= 1
    assert jnp.isfinite(gradient)


def test_gradient(check_gradient):
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.9}
    check_gradient(lambda s, ref: kto(s, ref, DESIRABLE, 0.7, **weights), LOGPROBS, REF)


@pytest.mark.parametrize(
    "bad", [{"beta": 0.0}, {"beta": -1.0}, {"desirable_weight": -0.1}, {"undesirable_weight": float("nan")}]
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        kto(LOGPROBS, REF, DESIRABLE, 0.0, **bad)


@pytest.mark.parametrize("short", range(3))
def test_different_shapes_are_refused(short):
    arrays = [x[:, :1] if i == short else x for i, x in enumerate((LOGPROBS, REF, DESIRABLE))]
    with pytest.raises(AssertionError):
        kto(*arrays, 0.0)
