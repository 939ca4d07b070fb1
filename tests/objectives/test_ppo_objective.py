import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.types import Outputs

# The terms of the loss are looked at one by one, with the others switched off.
pytestmark = pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")

LEARNED = ("logprobs", "entropy", "values")
FIXED = ("old_logprobs", "old_values", "advantages", "returns")


def counted(x, batch):
    return np.asarray(x, np.float64)[np.asarray(batch.mask)]


def test_against_numpy_on_the_counted_tokens(batch, outputs, total):
    logp, entropy, value = (counted(getattr(outputs, name), batch) for name in LEARNED)
    old_logp, old_value, advantage, target = (counted(getattr(batch, name), batch) for name in FIXED)
    ratio = np.exp(logp - old_logp)
    policy = -np.minimum(ratio * advantage, np.clip(ratio, 0.9, 1.3) * advantage)
    clipped = np.clip(value, old_value - 0.15, old_value + 0.15)
    critic = 0.5 * np.maximum((value - target) ** 2, (clipped - target) ** 2)
    loss = objectives.ppo(
        outputs, batch, clip_low=0.1, clip_high=0.3, value_clip=0.15, value_coef=0.7, entropy_coef=0.02
    )
    np.testing.assert_allclose(total(loss), (policy + 0.7 * critic - 0.02 * entropy).mean(), rtol=1e-5)
    logged = {name: float(losses.masked_mean(*pair)) for name, pair in loss.metrics.items()}
    expected = {
        "policy_loss": policy.mean(),
        "value_loss": critic.mean(),
        "entropy": entropy.mean(),
        "ratio": ratio.mean(),
        "clip_fraction": ((ratio < 0.9) | (ratio > 1.3)).mean(),
        "approx_kl": (ratio - 1 - np.log(ratio)).mean(),
    }
    assert set(logged) == set(expected)
    for name, number in expected.items():
        np.testing.assert_allclose(logged[name], number, rtol=1e-4, err_msg=name)
    assert 0 < logged["clip_fraction"] < 1, "the batch should exercise the clip"


def test_before_the_first_update_it_is_the_policy_gradient(batch, outputs, total):
    same = outputs._replace(logprobs=batch.old_logprobs)

    def policy_only(x):
        return total(objectives.ppo(same._replace(logprobs=x), batch, value_coef=0.0))

    gradient = jax.grad(policy_only)(same.logprobs)
    np.testing.assert_allclose(gradient, jnp.where(batch.mask, -batch.advantages, 0) / batch.mask.sum(), rtol=1e-6)
    metrics = objectives.ppo(same, batch).metrics
    assert losses.masked_mean(*metrics["ratio"]) == 1
    assert losses.masked_mean(*metrics["clip_fraction"]) == 0
    assert losses.masked_mean(*metrics["approx_kl"]) == 0


def test_the_entropy_bonus_raises_entropy(batch, outputs, total):
    gradient = jax.grad(lambda x: total(objectives.ppo(outputs._replace(entropy=x), batch, entropy_coef=0.01)))
    expected = jnp.where(batch.mask, -0.01 / batch.mask.sum(), 0)
    np.testing.assert_allclose(gradient(outputs.entropy), expected, rtol=1e-6)


def test_no_gradient_flows_into_what_was_computed_before(batch, outputs, total):
    def loss(fixed):
        return total(objectives.ppo(outputs, batch._replace(**fixed), entropy_coef=0.01))

    gradients = jax.grad(loss)({name: getattr(batch, name) for name in FIXED})
    assert not any(g.any() for g in gradients.values())


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, poison):
    def value_and_gradient(outputs, batch):
        objective = functools.partial(objectives.ppo, dual_clip=3.0, entropy_coef=0.01)
        return jax.value_and_grad(lambda out: total(objective(out, batch)))(outputs)

    def hide(x):
        return jnp.where(batch.mask, x, poison)

    poisoned = value_and_gradient(
        Outputs(**{name: hide(getattr(outputs, name)) for name in LEARNED}),
        batch._replace(**{name: hide(getattr(batch, name)) for name in FIXED}),
    )
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(outputs._replace(scores=None), batch))


def test_gradient(batch, outputs, total):
    with jax.enable_x64(True):
        learned = [jnp.asarray(np.asarray(getattr(outputs, name)), jnp.float64) for name in LEARNED]

        def loss(*learned):
            return total(objectives.ppo(Outputs(*learned), batch, entropy_coef=0.01, dual_clip=3.0, value_coef=1.0))

        check_grads(loss, learned, order=1, modes=["rev"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"clip_low": 0.0}, "clip_low must be above 0"),
        ({"clip_high": -0.2}, "clip_high must be above 0"),
        ({"dual_clip": 1.0}, "dual_clip must be above 1"),
        ({"value_clip": 0.0}, "clip must be above 0"),
        ({"value_coef": -0.1}, "value_coef must be at least 0"),
        ({"entropy_coef": -0.1}, "entropy_coef must be at least 0"),
        ({"kl_coef": -0.1}, "kl_coef must be at least 0"),
    ],
)
def test_nonsense_is_refused(batch, outputs, bad, message):
    with pytest.raises(ValueError, match=message):
        objectives.ppo(outputs, batch, **bad)


@pytest.mark.parametrize("name", FIXED)
def test_missing_fields_are_named(batch, outputs, name):
    with pytest.raises(ValueError, match=rf"batch\.{name} is None"):
        objectives.ppo(outputs, batch._replace(**{name: None}))


def test_clipping_can_be_switched_off(batch, outputs):
    loss = objectives.ppo(outputs, batch, clip_low=math.inf, clip_high=math.inf, value_clip=math.inf)
    assert losses.masked_mean(*loss.metrics["clip_fraction"]) == 0


@pytest.fixture
def with_reference(batch):
    nudge = np.random.default_rng(3).normal(size=batch.mask.shape)
    return batch._replace(ref_logprobs=batch.old_logprobs + jnp.asarray(0.2 * nudge, jnp.float32))


@pytest.mark.parametrize("estimator", [losses.k2, losses.k3])
def test_the_kl_can_stand_in_the_loss(with_reference, outputs, total, estimator):
    without, loss = (
        objectives.ppo(outputs, with_reference, kl_coef=coef, kl_estimator=estimator) for coef in (0.0, 0.3)
    )
    gap = counted(outputs.logprobs, with_reference) - counted(with_reference.ref_logprobs, with_reference)
    kl = gap**2 / 2 if estimator is losses.k2 else np.exp(-gap) - 1 + gap
    np.testing.assert_allclose(total(loss) - total(without), 0.3 * kl.mean(), rtol=1e-4)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["ref_kl"]), kl.mean(), rtol=1e-5)
    assert set(loss.metrics) - set(without.metrics) == {"ref_kl"}


def test_a_controller_sets_the_weight_of_the_kl(with_reference, outputs, total):
    controlled = with_reference._replace(kl_coef=jnp.full(with_reference.mask.shape[:2], 0.3))
    expected = total(objectives.ppo(outputs, with_reference, kl_coef=0.3))
    for kl_coef in (0.0, 0.1):
        np.testing.assert_allclose(total(objectives.ppo(outputs, controlled, kl_coef=kl_coef)), expected, rtol=1e-6)


def test_a_weight_of_0_is_no_kl_even_where_the_estimate_overflows(with_reference, outputs, total):
    """What a controller of the KL in the reward leaves in the batch."""
    far = with_reference._replace(ref_logprobs=with_reference.old_logprobs + 300.0)
    off = far._replace(kl_coef=jnp.zeros(far.mask.shape[:2]))

    def value_and_gradient(batch):
        return jax.value_and_grad(lambda out: total(objectives.ppo(out, batch)))(outputs)

    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(off), value_and_gradient(far))


def test_the_reference_is_asked_for_with_a_kl_only(batch, outputs):
    assert batch.ref_logprobs is None
    objectives.ppo(outputs, batch)
    with pytest.raises(ValueError, match=r"batch\.ref_logprobs is None"):
        objectives.ppo(outputs, batch, kl_coef=0.1)


def test_no_gradient_flows_into_the_reference_or_its_weight(with_reference, outputs, total):
    weight = jnp.full(with_reference.mask.shape[:2], 0.3)

    def loss(ref_logprobs, kl_coef):
        return total(objectives.ppo(outputs, with_reference._replace(ref_logprobs=ref_logprobs, kl_coef=kl_coef)))

    gradients = jax.grad(loss, argnums=(0, 1))(with_reference.ref_logprobs, weight)
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_reference_behind_the_mask_does_not_matter(with_reference, outputs, total, poison):
    weight = jnp.full(with_reference.mask.shape[:2], 0.3)

    def value_and_gradient(ref_logprobs, kl_coef):
        batch = with_reference._replace(ref_logprobs=ref_logprobs, kl_coef=kl_coef)
        return jax.value_and_grad(lambda x: total(objectives.ppo(outputs._replace(logprobs=x), batch)))(
            outputs.logprobs
        )

    hidden = jnp.where(with_reference.mask, with_reference.ref_logprobs, poison)
    poisoned = value_and_gradient(hidden, jnp.where(with_reference.mask.any(-1), weight, poison))
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(with_reference.ref_logprobs, weight))


def test_gradient_of_the_kl(with_reference, outputs, total):
    with jax.enable_x64(True):
        logprobs = jnp.asarray(np.asarray(outputs.logprobs), jnp.float64)

        def loss(logprobs):
            return total(objectives.ppo(outputs._replace(logprobs=logprobs), with_reference, kl_coef=0.5))

        check_grads(loss, (logprobs,), order=1, modes=["rev"])


@pytest.mark.parametrize(
    "unusual",
    [
        {"clip_low": 0.9},
        {"clip_high": 0.01},
        {"dual_clip": 20.0},
        {"value_coef": 5.0},
        {"entropy_coef": 0.5},
        {"kl_coef": 2.0},
    ],
)
def test_the_unusual_is_warned_of(with_reference, outputs, unusual):
    with pytest.warns(UnusualHyperparameter, match=next(iter(unusual))):
        objectives.ppo(outputs, with_reference, **unusual)


def test_the_usual_is_not_warned_of(with_reference, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objectives.ppo(outputs, with_reference)
        objectives.ppo(outputs, with_reference, clip_low=math.inf, clip_high=math.inf, value_clip=math.inf)
        objectives.ppo(outputs, with_reference, clip_high=0.28, dual_clip=3.0, entropy_coef=0.01, kl_coef=0.04)


def test_a_ratio_beyond_float32_is_logged_as_a_number(batch, outputs):
    far = outputs._replace(logprobs=batch.old_logprobs + 300.0)
    assert jnp.isfinite(losses.masked_mean(*objectives.ppo(far, batch).metrics["ratio"]))
