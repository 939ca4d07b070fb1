import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rlhf_jax import losses, objectives, testing
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.types import Outputs, SequenceBatch

MASK = np.zeros((5, 2, 6), bool)
MASK[0, 0, 1:4] = MASK[0, 1, 2:6] = True
MASK[1, 0, 3:6] = MASK[1, 1, [2, 4]] = True
MASK[2, 0, 5:6] = MASK[2, 1, 0:6] = True
MASK[3, 0, 1:5] = True  # a pair without a rejected response; the last pair is an empty group
PAIRS = (0, 1, 2)
EMPTY = (3, 4)

# Each objective beside its definition, in numpy, of a pair's log-probabilities: s summed, m averaged, n tokens.
OBJECTIVES = {
    "dpo": (objectives.dpo, lambda p: softplus(-0.1 * (p.h[0] - p.h[1]))),
    "conservative_dpo": (
        functools.partial(objectives.dpo, beta=0.3, label_smoothing=0.2),
        lambda p: softplus(-0.3 * (p.h[0] - p.h[1])) + 0.2 * 0.3 * (p.h[0] - p.h[1]),
    ),
    "dpo_per_token": (
        functools.partial(objectives.dpo, beta=5.0, length_normalised=True),
        lambda p: softplus(-5.0 * (p.h[0] / p.n[0] - p.h[1] / p.n[1])),
    ),
    "robust_dpo": (
        functools.partial(objectives.robust_dpo, beta=0.3),
        lambda p: softplus(-0.3 * (p.h[0] - p.h[1])) - 0.1 / 0.8 * 0.3 * (p.h[0] - p.h[1]),
    ),
    "ipo": (objectives.ipo, lambda p: (p.h[0] / p.n[0] - p.h[1] / p.n[1] - 5) ** 2),
    "ipo_of_the_paper": (
        functools.partial(objectives.ipo, beta=0.5, length_normalised=False),
        lambda p: (p.h[0] - p.h[1] - 1) ** 2,
    ),
    "orpo": (
        functools.partial(objectives.orpo, weight=0.5),
        lambda p: -p.m[0] + 0.5 * softplus(log_odds(p.m[1]) - log_odds(p.m[0])),
    ),
    "simpo": (objectives.simpo, lambda p: softplus(1 - 2 * (p.m[0] - p.m[1]))),
    "cpo": (
        functools.partial(objectives.cpo, beta=0.2, sft_weight=0.7, label_smoothing=0.1),
        lambda p: softplus(-0.2 * (p.s[0] - p.s[1])) + 0.1 * 0.2 * (p.s[0] - p.s[1]) - 0.7 * p.m[0],
    ),
    "slic": (
        functools.partial(objectives.slic, beta=0.3, delta=0.8, sft_weight=0.5),
        lambda p: max(0, 0.8 - 0.3 * (p.h[0] - p.h[1])) - 0.5 * p.m[0],
    ),
}
REFERENCE_FREE = ("orpo", "simpo", "cpo")
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def softplus(x):
    return np.log1p(np.exp(x))


def log_odds(mean):
    return np.log(np.exp(mean) / (1 - np.exp(mean)))


class Pair:
    """Of the chosen and the rejected response: tokens, summed and mean log-probability, log-ratio to the reference."""

    def __init__(self, batch, outputs, b):
        masks = np.asarray(batch.mask[b])
        self.n = masks.sum(-1)
        self.s = [float(np.asarray(outputs.logprobs[b, k], np.float64)[masks[k]].sum()) for k in (0, 1)]
        ref = [float(np.asarray(batch.ref_logprobs[b, k], np.float64)[masks[k]].sum()) for k in (0, 1)]
        self.m = np.array(self.s) / self.n
        self.h = np.array(self.s) - ref


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    votes = np.array([[0.0, 4.0], [1.0, 0.0]])[None] * np.ones((5, 1, 1))
    return SequenceBatch(
        tokens=jnp.asarray(rng.integers(9, size=MASK.shape)),
        mask=jnp.asarray(MASK),
        segment_ids=jnp.ones(MASK.shape, int),
        positions=jnp.broadcast_to(jnp.arange(6)[None, None], MASK.shape),
        ref_logprobs=jnp.asarray(-0.5 - rng.exponential(size=MASK.shape), jnp.float32),
        votes=jnp.asarray(votes, jnp.float32),
    )


@pytest.fixture
def outputs(batch):
    nudge = 0.4 * np.random.default_rng(1).normal(size=MASK.shape)
    return Outputs(logprobs=jnp.minimum(batch.ref_logprobs + jnp.asarray(nudge, jnp.float32), -0.01))


@every_objective
def test_against_numpy_pair_by_pair(batch, outputs, total, name):
    objective, definition = OBJECTIVES[name]
    loss = objective(outputs, batch)
    expected = [definition(Pair(batch, outputs, b)) for b in PAIRS]
    assert loss.values.dtype == jnp.float32
    np.testing.assert_array_equal(loss.mask, [True, True, True, False, False])
    np.testing.assert_allclose(loss.values[jnp.array(PAIRS)], expected, rtol=1e-4)
    np.testing.assert_allclose(total(loss), np.mean(expected), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "reward"),
    [
        ("dpo", lambda p: 0.1 * p.h),
        ("dpo_per_token", lambda p: 5.0 * p.h / p.n),
        ("robust_dpo", lambda p: 0.3 * p.h),
        ("ipo", lambda p: 0.1 * p.h / p.n),
        ("orpo", lambda p: p.m),
        ("simpo", lambda p: 2.0 * p.m),
        ("cpo", lambda p: 0.2 * np.array(p.s)),
        ("slic", lambda p: 0.3 * p.h),
    ],
)
def test_metrics(batch, outputs, name, reward):
    metrics = OBJECTIVES[name][0](outputs, batch).metrics
    logged = {key: float(losses.masked_mean(*pair)) for key, pair in metrics.items()}
    pairs = [Pair(batch, outputs, b) for b in PAIRS]
    rewards = np.array([reward(p) for p in pairs])
    mean_logprobs = name in ("dpo_per_token", "ipo", "orpo", "simpo")
    logprobs = np.array([p.m if mean_logprobs else p.s for p in pairs])
    expected = {
        "accuracy": (rewards[:, 0] > rewards[:, 1]).mean(),
        "reward_margin": (rewards[:, 0] - rewards[:, 1]).mean(),
        "chosen_reward": rewards[:, 0].mean(),
        "rejected_reward": rewards[:, 1].mean(),
        "chosen_logprob": logprobs[:, 0].mean(),
        "rejected_logprob": logprobs[:, 1].mean(),
    }
    for key, number in expected.items():
        np.testing.assert_allclose(logged[key], number, rtol=1e-4, err_msg=key)
    parts = set(logged) - set(expected)
    assert parts == {"slic": {"preference_loss", "sft_loss", "active"}}.get(
        name, {"preference_loss", "sft_loss"} if name in ("orpo", "cpo") else set()
    )


@pytest.mark.parametrize(
    ("objective", "weight"),
    [
        (functools.partial(objectives.orpo, weight=0.5), 1.0),
        (functools.partial(objectives.cpo, sft_weight=0.7), 0.7),
        (functools.partial(objectives.slic, sft_weight=0.5), 0.5),
    ],
)
def test_the_parts_are_logged_and_add_up(batch, outputs, total, objective, weight):
    loss = objective(outputs, batch)
    preference, sft = (losses.masked_mean(*loss.metrics[name]) for name in ("preference_loss", "sft_loss"))
    np.testing.assert_allclose(sft, np.mean([-Pair(batch, outputs, b).m[0] for b in PAIRS]), rtol=1e-5)
    np.testing.assert_allclose(preference + weight * sft, total(loss), rtol=1e-5)


def test_slic_logs_the_share_of_pairs_within_the_margin(batch, outputs):
    gaps = jnp.array([-1.0, 3.0, 5.0, 0.0, 0.0])
    one_token = jnp.asarray(MASK[:, 0] & (MASK[:, 0].cumsum(-1) == 1))
    moved = batch.ref_logprobs.at[:, 0].add(jnp.where(one_token, gaps[:, None], 0))
    loss = objectives.slic(outputs._replace(logprobs=moved), batch, beta=0.5, delta=2.0)
    np.testing.assert_allclose(loss.values[:3], [2.5, 0.5, 0.0], rtol=1e-5)
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["active"]), 2 / 3, rtol=1e-6)


def test_before_the_first_update_dpo_costs_log_2_and_pulls_both_ways_alike(batch, outputs, total):
    def loss(x):
        return total(objectives.dpo(outputs._replace(logprobs=x), batch, beta=0.2))

    value, gradient = jax.value_and_grad(loss)(batch.ref_logprobs)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    pull = np.where(MASK, np.array([-1.0, 1.0])[None, :, None], 0) * 0.2 / 2 / len(PAIRS)
    pull[list(EMPTY)] = 0
    np.testing.assert_allclose(gradient, pull, rtol=1e-6)


@every_objective
def test_the_order_within_a_pair_matters(batch, outputs, name):
    objective = OBJECTIVES[name][0]
    turned = batch._replace(mask=batch.mask[:, ::-1], ref_logprobs=batch.ref_logprobs[:, ::-1])
    same, other = objective(outputs, batch), objective(outputs._replace(logprobs=outputs.logprobs[:, ::-1]), turned)
    assert not np.allclose(same.values[:3], other.values[:3])
    np.testing.assert_allclose(other.metrics["reward_margin"][0][:3], -same.metrics["reward_margin"][0][:3], rtol=1e-5)


@every_objective
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, name, poison):
    def value_and_gradient(outputs, batch):
        return jax.value_and_grad(lambda out: total(OBJECTIVES[name][0](out, batch)))(outputs)

    poisoned = value_and_gradient(
        Outputs(logprobs=jnp.where(batch.mask, outputs.logprobs, poison)),
        batch._replace(ref_logprobs=jnp.where(batch.mask, batch.ref_logprobs, poison)),
    )
    clean = value_and_gradient(outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    hidden = ~MASK
    hidden[list(EMPTY)] = True  # half a pair teaches nothing
    assert not clean[1].logprobs[hidden].any()
    assert jnp.isfinite(clean[1].logprobs).all()


@every_objective
def test_empty_groups_do_not_count(batch, outputs, total, name):
    objective = OBJECTIVES[name][0]
    kept = jnp.array(PAIRS)
    without = jax.tree.map(lambda x: x[kept], (outputs, batch))
    np.testing.assert_allclose(total(objective(*without)), total(objective(outputs, batch)), rtol=1e-6)
    nothing = objective(outputs, batch._replace(mask=jnp.zeros_like(batch.mask)))
    assert total(nothing) == 0
    assert all(jnp.isfinite(losses.masked_mean(*pair)) for pair in nothing.metrics.values())


@every_objective
def test_no_gradient_flows_into_the_batch(batch, outputs, total, name):
    def loss(ref_logprobs, votes):
        return total(OBJECTIVES[name][0](outputs, batch._replace(ref_logprobs=ref_logprobs, votes=votes)))

    gradients = jax.grad(loss, argnums=(0, 1))(batch.ref_logprobs, batch.votes)
    assert not any(g.any() for g in gradients)


@every_objective
def test_gradient(batch, outputs, total, name):
    with jax.enable_x64(True):
        logprobs = jnp.asarray(np.asarray(outputs.logprobs), jnp.float64)
        check_grads(
            lambda x: total(OBJECTIVES[name][0](Outputs(logprobs=x), batch)), [logprobs], order=1, modes=["rev"]
        )


@every_objective
def test_missing_fields_are_named(batch, outputs, name):
    objective = OBJECTIVES[name][0]
    with pytest.raises(ValueError, match=r"outputs\.logprobs is None"):
        objective(Outputs(), batch)
    bare = batch._replace(ref_logprobs=None)
    if name in REFERENCE_FREE:
        objective(outputs, bare)
    else:
        with pytest.raises(ValueError, match=r"batch\.ref_logprobs is None"):
            objective(outputs, bare)


@every_objective
@pytest.mark.parametrize("responses", [1, 3])
def test_groups_that_are_not_pairs_are_refused(batch, outputs, name, responses):
    def resize(x):
        return jnp.concatenate([x, x], axis=1)[:, :responses]

    other = batch._replace(mask=resize(batch.mask), ref_logprobs=resize(batch.ref_logprobs))
    with pytest.raises(ValueError, match=f"expected pairs .* found groups of {responses}"):
        OBJECTIVES[name][0](Outputs(logprobs=resize(outputs.logprobs)), other)


@pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")
@pytest.mark.parametrize(
    ("objective", "bad", "message"),
    [
        *((f, {"beta": 0.0}, "beta must be above 0") for f in (objectives.dpo, objectives.robust_dpo, objectives.ipo)),
        *((f, {"beta": -0.1}, "beta must be above 0") for f in (objectives.simpo, objectives.cpo, objectives.slic)),
        (objectives.dpo, {"label_smoothing": -0.1}, "label_smoothing must be at least 0"),
        (
            objectives.dpo,
            {"label_smoothing": 1.1, "soft_labels": True},
            "label_smoothing must be at least 0 and at most",
        ),
        (objectives.robust_dpo, {"label_smoothing": 0.5}, "label_smoothing must be below 0.5"),
        (objectives.cpo, {"label_smoothing": 1.1}, "label_smoothing must be at least 0"),
        (objectives.cpo, {"sft_weight": -1.0}, "sft_weight must be at least 0"),
        (objectives.slic, {"sft_weight": -1.0}, "sft_weight must be at least 0"),
        (objectives.slic, {"delta": 0.0}, "delta must be above 0"),
        (objectives.orpo, {"weight": -0.1}, "weight must be at least 0"),
        (objectives.simpo, {"margin": -1.0}, "margin must be at least 0"),
    ],
)
def test_nonsense_is_refused(batch, outputs, objective, bad, message):
    with pytest.raises(ValueError, match=message):
        objective(outputs, batch, **bad)


@pytest.mark.parametrize(
    ("objective", "unusual", "message"),
    [
        (objectives.dpo, {"beta": 2.0}, r"beta is 2, outside the usual 0.01 to 0.5 \(Rafailov"),
        (objectives.dpo, {"beta": 20.0, "length_normalised": True}, r"beta is 20, outside the usual 0.01 to 10 \(Lamb"),
        (objectives.dpo, {"label_smoothing": 0.7}, "label_smoothing is 0.7, outside the usual 0 to 0.5"),
        (objectives.robust_dpo, {"beta": 0.001}, "beta is 0.001"),
        (objectives.ipo, {"beta": 2.0}, r"beta is 2, outside the usual 0.01 to 1 \(Azar"),
        (objectives.orpo, {"weight": 2.0}, r"weight is 2, outside the usual 0.01 to 1 \(Hong"),
        (objectives.simpo, {"beta": 0.1}, r"beta is 0.1, outside the usual 1 to 10 \(Meng"),
        (objectives.simpo, {"margin": 6.0}, "margin is 6, outside the usual 0 to 5"),
        (objectives.cpo, {"beta": 2.0}, "beta is 2, outside the usual 0.01 to 0.5"),
        (objectives.cpo, {"label_smoothing": 0.7}, "label_smoothing is 0.7"),
        (objectives.slic, {"beta": 2.0}, "beta is 2, outside the usual 0.01 to 0.5"),
    ],
)
def test_unusual_hyperparameters_are_named(batch, outputs, objective, unusual, message):
    with pytest.warns(UnusualHyperparameter, match=message):
        objective(outputs, batch, **unusual)


@pytest.mark.filterwarnings("error")
@every_objective
def test_usual_hyperparameters_pass_in_silence(batch, outputs, name):
    OBJECTIVES[name][0](outputs, batch)


@every_objective
def test_sound_on_a_model(quick_models, name):
    assert "mesh" in testing.check_objective(OBJECTIVES[name][0])
