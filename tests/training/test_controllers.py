import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.training import adaptive, banded, fixed


def test_fixed_never_moves():
    controller = fixed(0.07)
    state = controller.init()
    for kl in (0.0, 100.0, -3.0):
        state = controller.update(state, kl=kl, samples=64)
    assert float(state.coef) == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.05 * 1.02),
        (5.5, 0.05 * 1.01),
        (5.0, 0.05),
        (4.5, 0.05 * 0.99),
        (100.0, 0.05 * 1.02),
        (-3.0, 0.05 * 0.98),
    ],
)
def test_adaptive_by_hand(kl, expected):
    # e = clip(kl / 5 - 1, -0.2, 0.2), and n / h = 100 / 1000
    controller = adaptive(0.05, target=5.0, horizon=1000.0)
    assert float(controller.update(controller.init(), kl=kl, samples=100).coef) == pytest.approx(expected)


@pytest.mark.parametrize(("kl", "bound"), [(50.0, 0.1), (0.0, 0.01)])
def test_adaptive_stays_inside_its_bounds(kl, bound):
    controller = adaptive(0.05, target=5.0, horizon=500.0)
    update = jax.jit(lambda state: controller.update(state, kl=kl, samples=100))
    state = controller.init()
    for _ in range(200):
        state = update(state)
    assert float(state.coef) == pytest.approx(bound)


def test_a_kl_that_is_not_finite_changes_nothing():
    controller = adaptive(0.05, target=5.0, horizon=500.0)
    for kl in (jnp.nan, jnp.inf, -jnp.inf):
        assert float(controller.update(controller.init(), kl=kl, samples=100).coef) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "arguments",
    [
        {"initial": 0.5, "target": 5.0, "horizon": 10.0},
        {"initial": 0.05, "target": 0.0, "horizon": 10.0},
        {"initial": 0.05, "target": 5.0, "horizon": -1.0},
        {"initial": 0.05, "target": 5.0, "horizon": 10.0, "minimum": 0.0},
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"positive|minimum <= initial"):
        adaptive(arguments.pop("initial"), **arguments)
    with pytest.raises(ValueError, match="at least 0"):
        fixed(-0.1)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (9.1, 0.05 * 1.5),
        (9.0, 0.05),  # the band's ends belong to it
        (5.0, 0.05),
        (3.0, 0.05),
        (2.9, 0.05 / 1.5),
        (-4.0, 0.05 / 1.5),
        (1e9, 0.05 * 1.5),  # one step, however far away
    ],
)
def test_banded_by_hand(kl, expected):
    controller = banded(0.05, low=3.0, high=9.0, factor=1.5)
    for samples in (1, 1000):  # how many responses were measured has no say
        assert float(controller.update(controller.init(), kl=kl, samples=samples).coef) == pytest.approx(expected)


@pytest.mark.parametrize(("kl", "bound"), [(50.0, 0.08), (0.0, 0.02)])
def test_banded_stays_inside_its_bounds(kl, bound):
    controller = banded(0.05, low=3.0, high=9.0, minimum=0.02, maximum=0.08)
    update = jax.jit(lambda state: controller.update(state, kl=kl, samples=100))
    state, seen = controller.init(), []
    for _ in range(20):
        state = update(state)
        seen.append(float(state.coef))
    assert state.coef.dtype == jnp.float32
    assert seen[-1] == seen[-2] == pytest.approx(bound)
    assert min(seen) >= 0.02 * (1 - 1e-6)
    assert max(seen) <= 0.08 * (1 + 1e-6)


def test_banded_rests_at_a_kl_that_is_not_finite():
    controller = banded(0.05, low=3.0, high=9.0)
    for kl in (jnp.nan, jnp.inf, -jnp.inf):
        assert float(controller.update(controller.init(), kl=kl, samples=100).coef) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low": 9.0, "high": 3.0}, "need 0 <= low < high, found 9.0 and 3.0"),
        ({"low": 3.0, "high": 3.0}, "low < high"),
        ({"low": -1.0}, "low < high"),
        ({"factor": 1.0}, "factor must be above 1, found 1.0"),
        ({"factor": 0.5}, "factor must be above 1"),
        ({"initial": 0.5}, "minimum <= initial"),
        ({"minimum": 0.0}, "minimum <= initial"),
        ({"high": float("nan")}, "low < high"),
        ({"factor": float("nan")}, "factor must be above 1"),
    ],
    ids=str,
)
def test_a_band_that_is_nonsense_is_refused(change, says):
    arguments = {"initial": 0.05, "low": 3.0, "high": 9.0, **change}
    with pytest.raises(ValueError, match=says):
        banded(arguments.pop("initial"), **arguments)
