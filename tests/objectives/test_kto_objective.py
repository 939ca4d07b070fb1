import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives, testing
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.types import Outputs, SequenceBatch

MASK = np.zeros((4, 3, 6), bool)
MASK[0, 0, 1:4] = MASK[0, 1, 2:6] = MASK[0, 2, 5:6] = True
MASK[1, 0, 3:6] = MASK[1, 1, [2, 4]] = True  # the third response is empty, the third group too
MASK[3, :, 1:3] = True
PRESENT = MASK.any(-1)
LABEL = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 0, 0]], np.float32)
FIXED = ("ref_logprobs", "label", "kl")
KTO = functools.partial(objectives.kto, beta=0.3, desirable_weight=1.3, undesirable_weight=0.9)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return SequenceBatch(
        tokens=jnp.asarray(rng.integers(9, size=MASK.shape)),
        mask=jnp.asarray(MASK),
        segment_ids=jnp.ones(MASK.shape, int),
        positions=jnp.broadcast_to(jnp.arange(6)[None, None], MASK.shape),
        ref_logprobs=jnp.asarray(-1 - rng.exponential(size=MASK.shape), jnp.float32),
        label=jnp.asarray(LABEL),
        kl=jnp.full(MASK.shape[:2], 0.4),
    )


@pytest.fixture
def outputs(batch):
    nudge = 0.4 * np.random.default_rng(1).normal(size=MASK.shape)
    return Outputs(logprobs=batch.ref_logprobs + jnp.asarray(nudge, jnp.float32))


def gains(batch, outputs):
    """The log-ratio of every response that is there, in float64, and its thumb."""
    ratio = np.asarray(outputs.logprobs, np.float64) - np.asarray(batch.ref_logprobs, np.float64)
    return np.where(MASK, ratio, 0).sum(-1)[PRESENT], LABEL[PRESENT] == 1


def test_against_numpy_response_by_response(batch, outputs, total):
    h, up = gains(batch, outputs)
    sigmoid = 1 / (1 + np.exp(-0.3 * (h - 0.4)))
    expected = np.where(up, 1.3 * (1 - sigmoid), 0.9 * sigmoid)
    loss = KTO(outputs, batch)
    assert loss.values.dtype == jnp.float32
    np.testing.assert_array_equal(loss.mask, PRESENT)
    np.testing.assert_allclose(np.asarray(loss.values)[PRESENT], expected, rtol=1e-5)
    np.testing.assert_allclose(total(loss), expected.mean(), rtol=1e-5)
    logged = {name: float(losses.masked_mean(*pair)) for name, pair in loss.metrics.items()}
    assert set(logged) == {"desirable_reward", "undesirable_reward", "reference_point"}
    np.testing.assert_allclose(logged["desirable_reward"], 0.3 * h[up].mean(), rtol=1e-4)
    np.testing.assert_allclose(logged["undesirable_reward"], 0.3 * h[~up].mean(), rtol=1e-4)
    np.testing.assert_allclose(logged["reference_point"], 0.4, rtol=1e-6)


@pytest.mark.parametrize("responses", [1, 2, 3])
def test_any_number_of_responses(batch, outputs, responses):
    few = jax.tree.map(lambda x: x[:, :responses], (outputs, batch))
    np.testing.assert_array_equal(KTO(*few).values, KTO(outputs, batch).values[:, :responses])


def test_before_the_first_update_everything_is_worth_half(batch, total):
    loss = objectives.kto(Outputs(logprobs=batch.ref_logprobs), batch._replace(kl=jnp.zeros((4, 3))))
    np.testing.assert_allclose(total(loss), 0.5, rtol=1e-6)


def test_up_is_raised_and_down_is_lowered(batch, outputs, total):
    gradient = np.asarray(jax.grad(lambda o: total(KTO(o, batch)))(outputs).logprobs)
    up = LABEL[..., None] == 1
    assert (gradient[MASK & up] < 0).all()
    assert (gradient[MASK & ~up] > 0).all()


def test_a_reference_point_below_zero_is_zero(batch, outputs):
    def values(kl):
        return KTO(outputs, batch._replace(kl=jnp.full((4, 3), kl))).values

    np.testing.assert_array_equal(values(-2.0), values(0.0))
    assert (values(2.0) != values(0.0))[PRESENT].all()


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, poison):
    def value_and_gradient(outputs, batch):
        return jax.value_and_grad(lambda o: total(KTO(o, batch)))(outputs)

    poisoned = value_and_gradient(
        Outputs(logprobs=jnp.where(MASK, outputs.logprobs, poison)),
        batch._replace(
            ref_logprobs=jnp.where(MASK, batch.ref_logprobs, poison),
            label=jnp.where(PRESENT, batch.label, poison),
            kl=jnp.where(PRESENT, batch.kl, poison),
        ),
    )
    clean = value_and_gradient(outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    assert not clean[1].logprobs[~MASK].any()
    assert (clean[1].logprobs[MASK] != 0).all()


def test_empty_groups_do_not_count(batch, outputs, total):
    without = jax.tree.map(lambda x: x[jnp.array([0, 1, 3])], (outputs, batch))
    np.testing.assert_allclose(total(KTO(*without)), total(KTO(outputs, batch)), rtol=1e-6)
    nothing = KTO(outputs, batch._replace(mask=jnp.zeros_like(batch.mask)))
    assert total(nothing) == 0
    assert all(losses.masked_mean(*pair) == 0 for pair in nothing.metrics.values())


def test_no_gradient_flows_into_the_batch(batch, outputs, total):
    def loss(fixed):
        return total(KTO(outputs, batch._replace(**fixed)))

    gradients = jax.grad(loss)({name: getattr(batch, name) for name in FIXED})
    assert not any(g.any() for g in gradients.values())


def test_gradient(batch, outputs, total):
    with jax.enable_x64(True):
        logprobs = jnp.asarray(np.asarray(outputs.logprobs), jnp.float64)
        check_grads(lambda x: total(KTO(Outputs(logprobs=x), batch)), [logprobs], order=1, modes=["rev"])


@pytest.mark.parametrize("name", FIXED)
def test_missing_fields_are_named(batch, outputs, name):
    with pytest.raises(ValueError, match=rf"batch\.{name} is None"):
        KTO(outputs, batch._replace(**{name: None}))


def test_missing_log_probabilities_are_named(batch):
    with pytest.raises(ValueError, match=r"outputs\.logprobs is None"):
        KTO(Outputs(), batch)


@pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")
@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"desirable_weight": -1.0}, {"undesirable_weight": -1.0}])
def test_nonsense_is_refused(batch, outputs, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        objectives.kto(outputs, batch, **bad)


def test_an_unusual_beta_is_named(batch, outputs):
    with pytest.warns(UnusualHyperparameter, match=r"beta is 2, outside the usual 0.01 to 0.5 \(Ethayarajh"):
        objectives.kto(outputs, batch, beta=2.0)


@pytest.mark.parametrize("responses", [1, 3])
def test_sound_on_a_model(quick_models, responses):
    assert "mesh" in testing.check_objective(KTO, batch=testing.tiny_batch(responses=responses))
