"""RLOO, GRPO, Dr. GRPO, DAPO, GSPO and expert iteration: K responses to one prompt, judged against each other."""

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
from rlhf_jax.types import Outputs, SequenceBatch

# Wide clips and heavy weights are what makes the terms show in a batch of a few tokens.
pytestmark = pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")

dr_grpo = functools.partial(objectives.dr_grpo, max_length=8)
RATIO = {
    "rloo": objectives.rloo,
    "grpo": objectives.grpo,
    "dr_grpo": dr_grpo,
    "dapo": objectives.dapo,
    "gspo": objectives.gspo,
}
ALL = {**RATIO, "expert_iteration": objectives.expert_iteration}
WITH_RATIO = pytest.mark.parametrize("objective", RATIO.values(), ids=RATIO)
KL_IN_LOSS = pytest.mark.parametrize("objective", [f for n, f in RATIO.items() if n != "rloo"], ids=list(RATIO)[1:])
EACH = pytest.mark.parametrize("objective", ALL.values(), ids=ALL)


@pytest.fixture
def batch(batch):
    """The common batch with rewards and a reference; one more response is empty, and its reward is the highest."""
    rng = np.random.default_rng(2)
    mask = batch.mask.at[1, 1].set(False)
    return batch._replace(
        mask=mask,
        reward=jnp.asarray(rng.normal(size=mask.shape[:2]), jnp.float32).at[1, 1].set(9.0),
        ref_logprobs=batch.old_logprobs + jnp.asarray(0.2 * rng.normal(size=mask.shape), jnp.float32),
    )


@pytest.fixture
def outputs(outputs):
    return outputs._replace(values=None, scores=None)


def responses(batch, outputs, advantages):
    """What is counted, response by response in float64: log-ratios, k3 to the reference, advantage."""
    for b, k in np.argwhere(np.asarray(batch.mask.any(-1))):
        mask = np.asarray(batch.mask[b, k])
        logp, old, ref = (
            np.asarray(x[b, k], np.float64)[mask] for x in (outputs.logprobs, batch.old_logprobs, batch.ref_logprobs)
        )
        yield logp - old, np.exp(ref - logp) - 1 - (ref - logp), advantages[b][k]


def standings(batch, kind, kl_coef=0.0):
    """Advantages by the formula, of the responses that are not empty."""
    mask = np.asarray(batch.mask)
    kl = np.where(mask, np.asarray(batch.old_logprobs - batch.ref_logprobs, np.float64), 0).sum(-1)
    reward = np.asarray(batch.reward, np.float64) - kl_coef * kl
    found = np.zeros(mask.shape[:2])
    for b, there in enumerate(mask.any(-1)):
        r = reward[b, there]
        if kind == "rloo":
            found[b, there] = [x - np.delete(r, i).mean() for i, x in enumerate(r)]
        elif r.size:
            found[b, there] = (r - r.mean()) / (r.std(ddof=1) + 1e-4 if kind == "grpo" else 1)
    return found


def surrogate(log_ratio, advantage, low, high):
    ratio = np.exp(log_ratio)
    return -np.minimum(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


def test_rloo_by_hand(batch, outputs, total):
    advantages = standings(batch, "rloo", kl_coef=0.3)
    each = [surrogate(d.sum(), a, 0.1, 0.3) for d, _, a in responses(batch, outputs, advantages)]
    loss = objectives.rloo(outputs, batch, kl_coef=0.3, clip_low=0.1, clip_high=0.3)
    np.testing.assert_allclose(total(loss), np.mean(each), rtol=1e-5)


def test_grpo_by_hand(batch, outputs, total):
    advantages = standings(batch, "grpo")
    each = [
        (surrogate(d, a, 0.1, 0.3) + 0.5 * kl).mean() for d, kl, a in responses(batch, outputs, advantages)
    ]  # a mean of means: every response weighs the same
    loss = objectives.grpo(outputs, batch, kl_coef=0.5, clip_low=0.1, clip_high=0.3)
    np.testing.assert_allclose(total(loss), np.mean(each), rtol=1e-5)


def test_dr_grpo_by_hand(batch, outputs, total):
    each = [
        (surrogate(d, a, 0.1, 0.3) + 0.5 * kl).sum() / 8 for d, kl, a in responses(batch, outputs, standings(batch, ""))
    ]
    loss = dr_grpo(outputs, batch, kl_coef=0.5, clip_low=0.1, clip_high=0.3)
    np.testing.assert_allclose(total(loss), np.mean(each), rtol=1e-5)


def test_dapo_by_hand(batch, outputs, total):
    each = [
        surrogate(d, a, 0.1, 0.3) + 0.5 * kl for d, kl, a in responses(batch, outputs, standings(batch, "grpo"))
    ]  # every token weighs the same
    loss = objectives.dapo(outputs, batch, kl_coef=0.5, clip_low=0.1, clip_high=0.3)
    np.testing.assert_allclose(total(loss), np.concatenate(each).mean(), rtol=1e-5)


def test_gspo_by_hand(batch, outputs, total):
    advantages = standings(batch, "grpo")
    each = [surrogate(d.mean(), a, 0.001, 0.01) + 0.5 * kl.mean() for d, kl, a in responses(batch, outputs, advantages)]
    loss = objectives.gspo(outputs, batch, kl_coef=0.5, clip_low=0.001, clip_high=0.01)
    np.testing.assert_allclose(total(loss), np.mean(each), rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "kind", "weight"),
    [
        (functools.partial(objectives.rloo, kl_coef=0.0), "rloo", lambda n: 1),
        (functools.partial(objectives.grpo, kl_coef=0.0), "grpo", lambda n: 1 / n),
        (dr_grpo, "plain", lambda n: 1 / 8),
        (objectives.dapo, "grpo", None),
        (objectives.gspo, "grpo", lambda n: 1 / n),
    ],
    ids=RATIO,
)
def test_on_the_first_update_of_a_batch_each_is_the_policy_gradient(batch, outputs, total, objective, kind, weight):
    """They differ in the advantage, and in what a token of a response of n weighs."""
    gradient = jax.grad(lambda x: total(objective(Outputs(logprobs=x), batch)))(batch.old_logprobs)
    lengths = np.asarray(batch.mask.sum(-1))[..., None]
    share = 1 / lengths.sum() if weight is None else weight(np.maximum(lengths, 1)) / (lengths > 0).sum()
    expected = np.where(batch.mask, -standings(batch, kind)[..., None] * share, 0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    metrics = objective(outputs._replace(logprobs=batch.old_logprobs), batch).metrics
    assert losses.masked_mean(*metrics["ratio"]) == 1
    assert losses.masked_mean(*metrics["clip_fraction"]) == 0
    assert losses.masked_mean(*metrics["approx_kl"]) == 0


def test_responses_of_the_constant_length_make_grpo_without_std_and_dr_grpo_one(batch, outputs, total):
    full = batch._replace(mask=jnp.ones_like(batch.mask))
    grpo = objectives.grpo(outputs, full, normalise_std=False)
    one = functools.partial(objectives.dr_grpo, max_length=5, kl_coef=0.04)
    np.testing.assert_allclose(total(one(outputs, full)), total(grpo), rtol=1e-5)
    assert not np.isclose(total(one(outputs, batch)), total(objectives.grpo(outputs, batch, normalise_std=False)))


def test_responses_of_one_length_make_grpo_and_dapo_one(batch, outputs, total):
    full = batch._replace(mask=jnp.ones_like(batch.mask))
    options = {"kl_coef": 0.1, "clip_low": 0.1, "clip_high": 0.3}
    grpo, dapo = (f(outputs, full, **options) for f in (objectives.grpo, objectives.dapo))
    np.testing.assert_allclose(total(dapo), total(grpo), rtol=1e-5)


def test_responses_of_one_token_make_gspo_and_ppo_one(batch, outputs, total):
    short = batch._replace(mask=jnp.zeros_like(batch.mask).at[:2, :, 2].set(True))
    advantages = losses.grpo_advantages(batch.reward)
    as_ppo = short._replace(advantages=jnp.broadcast_to(advantages[..., None], batch.mask.shape))
    with_critic = outputs._replace(values=batch.old_values)
    clips = {"clip_low": 0.1, "clip_high": 0.15}
    ppo = functools.partial(objectives.ppo, value_coef=0.0, **clips)
    gspo = functools.partial(objectives.gspo, **clips)
    values_and_gradients = [
        jax.value_and_grad(lambda x, f=f, b=b: total(f(with_critic._replace(logprobs=x), b)))(outputs.logprobs)
        for f, b in ((ppo, as_ppo), (gspo, short))
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), *values_and_gradients)


def test_the_ratio_of_gspo_is_the_public_one(batch, outputs):
    ratio, present = objectives.gspo(outputs, batch).metrics["ratio"]
    expected = losses.gspo_ratio(outputs.logprobs, batch.old_logprobs, batch.mask)
    np.testing.assert_allclose(jnp.where(present, ratio, 1), expected, rtol=1e-6)


@WITH_RATIO
def test_metrics_say_what_happened(batch, outputs, total, objective):
    objective = functools.partial(objective, clip_low=0.1, clip_high=0.1, kl_coef=0.0)
    loss = objective(outputs, batch)
    logged = {name: float(losses.masked_mean(*pair)) for name, pair in loss.metrics.items()}
    assert set(logged) == {
        "policy_loss",
        "ratio",
        "clip_fraction",
        "approx_kl",
        "advantage",
        "advantage_abs",
        "reward",
        "entropy",
    }
    np.testing.assert_allclose(logged["policy_loss"], total(loss), rtol=1e-5)  # nothing else is in the loss
    present, mask = np.asarray(batch.mask.any(-1)), np.asarray(batch.mask)
    np.testing.assert_allclose(logged["reward"], np.asarray(batch.reward)[present].mean(), rtol=1e-5)
    np.testing.assert_allclose(logged["advantage"], 0, atol=1e-6)
    assert logged["advantage_abs"] > 0.1
    assert 0 < logged["clip_fraction"] < 1, "the batch should exercise the clip"
    log_ratio = np.asarray(outputs.logprobs - batch.old_logprobs, np.float64)[mask]
    np.testing.assert_allclose(logged["approx_kl"], (np.exp(log_ratio) - 1 - log_ratio).mean(), rtol=1e-4)
    np.testing.assert_allclose(logged["entropy"], np.asarray(outputs.entropy)[mask].mean(), rtol=1e-5)
    assert "entropy" not in objective(outputs._replace(entropy=None), batch).metrics


@WITH_RATIO
def test_kl_is_logged_where_it_counts(batch, outputs, objective):
    loss = objective(outputs, batch, kl_coef=0.1)
    mask = np.asarray(batch.mask)
    logp = batch.old_logprobs if objective is objectives.rloo else outputs.logprobs
    log_ratio = np.asarray(logp - batch.ref_logprobs, np.float64)[mask]
    expected = log_ratio if objective is objectives.rloo else np.exp(-log_ratio) - 1 + log_ratio
    np.testing.assert_allclose(losses.masked_mean(*loss.metrics["ref_kl"]), expected.mean(), rtol=1e-4)


@WITH_RATIO
def test_a_controller_sets_the_weight_of_the_kl(batch, outputs, total, objective):
    controlled = batch._replace(kl_coef=jnp.full(batch.mask.shape[:2], 0.3))
    steered = total(objective(outputs, controlled, kl_coef=0.1))
    np.testing.assert_allclose(steered, total(objective(outputs, batch, kl_coef=0.3)), rtol=1e-6)
    assert steered != total(objective(outputs, batch, kl_coef=0.1))
    np.testing.assert_allclose(total(objective(outputs, controlled, kl_coef=0.0)), steered, rtol=1e-6)


@KL_IN_LOSS
def test_a_weight_of_0_is_no_kl_even_where_the_estimate_overflows(batch, outputs, total, objective):
    """What a controller of the KL in the reward leaves in the batch."""
    far = batch._replace(ref_logprobs=batch.old_logprobs + 300.0)
    off = far._replace(kl_coef=jnp.zeros(far.mask.shape[:2]))

    def value_and_gradient(batch):
        return jax.value_and_grad(lambda out: total(objective(out, batch, kl_coef=0.0)))(outputs)

    jax.tree.map(np.testing.assert_array_equal, value_and_gradient(off), value_and_gradient(far))


def test_rloo_takes_a_reward_that_has_paid_for_its_kl_already(batch, outputs, total):
    """A controller's 0 replaces the default price, so that a KL in the batch's reward is not paid twice."""
    kl = losses.masked_sum(losses.k1(batch.old_logprobs, batch.ref_logprobs), batch.mask, axis=-1)
    paid = batch._replace(reward=batch.reward - 0.3 * kl, kl_coef=jnp.zeros_like(batch.reward))
    np.testing.assert_allclose(
        total(objectives.rloo(outputs, paid)), total(objectives.rloo(outputs, batch, kl_coef=0.3)), rtol=1e-5
    )


@KL_IN_LOSS
def test_the_estimator_of_the_kl_can_be_chosen(batch, outputs, total, objective):
    with_k2 = objective(outputs, batch, kl_coef=0.1, kl_estimator=losses.k2)
    expected = losses.masked_mean(losses.k2(outputs.logprobs, batch.ref_logprobs), batch.mask)
    np.testing.assert_allclose(losses.masked_mean(*with_k2.metrics["ref_kl"]), expected, rtol=1e-6)
    assert total(with_k2) != total(objective(outputs, batch, kl_coef=0.1))


@KL_IN_LOSS
def test_the_kl_in_the_loss_pulls_towards_the_reference(batch, total, objective):
    """With equal rewards nothing else is left: at the reference it is at rest, beside it it points back."""
    level = batch._replace(reward=jnp.ones_like(batch.reward))
    gradient = jax.grad(lambda x: total(objective(Outputs(logprobs=x), level, kl_coef=0.1)))
    assert not gradient(batch.ref_logprobs).any()
    assert (gradient(batch.ref_logprobs + 0.3)[batch.mask] > 0).all()
    assert (gradient(batch.ref_logprobs - 0.3)[batch.mask] < 0).all()


@WITH_RATIO
def test_without_kl_no_reference_is_needed(batch, outputs, objective):
    bare = batch._replace(ref_logprobs=None)
    assert "ref_kl" not in objective(outputs, bare, kl_coef=0.0).metrics
    with pytest.raises(ValueError, match=r"batch\.ref_logprobs is None"):
        objective(outputs, bare, kl_coef=0.1)


# The first response has one token with an entropy of 0.5 nats, the second three with 1, 2 and 3.
BONUS = {
    "rloo": (0.5 + 6) / 2,  # a response is one action: its entropy is the sum
    "grpo": (0.5 + 2) / 2,  # the mean of means
    "dr_grpo": (0.5 + 6) / 8 / 2,  # the sum over the constant length, 8
    "dapo": (0.5 + 1 + 2 + 3) / 4,  # the mean over tokens
    "gspo": (0.5 + 2) / 2,
    "reinforce": (0.5 + 6) / 2,
}


@pytest.mark.parametrize("name", BONUS)
def test_the_entropy_bonus_by_hand(total, name):
    objective = {**RATIO, "reinforce": objectives.reinforce}[name]
    mask = jnp.array([[[True, False, False], [True, True, True]]])
    ids, zeros = jnp.ones(mask.shape, int), jnp.zeros(mask.shape)
    batch = SequenceBatch(ids, mask, ids, ids, reward=jnp.array([[5.0, 1.0]]), old_logprobs=zeros, ref_logprobs=zeros)
    entropy = jnp.array([[[0.5, 7.0, 7.0], [1.0, 2.0, 3.0]]])  # what is behind the mask does not count

    def loss(entropy, **given):
        return total(objective(Outputs(logprobs=zeros, entropy=entropy), batch, **given))

    assert loss(entropy) == loss(entropy, entropy_coef=0.0) == loss(None)
    bonus = loss(entropy) - loss(entropy, entropy_coef=0.02)
    np.testing.assert_allclose(bonus, 0.02 * BONUS[name], rtol=1e-5)
    gradient = jax.grad(functools.partial(loss, entropy_coef=0.02))(entropy)
    assert ((gradient < 0) == mask).all()  # less loss where there is more entropy
    with pytest.raises(ValueError, match=r"outputs\.entropy is None"):
        loss(None, entropy_coef=0.02)
    with pytest.raises(ValueError, match=r"entropy_coef must be at least 0, found -0\.1"):
        loss(entropy, entropy_coef=-0.1)
    with pytest.warns(UnusualHyperparameter, match=r"entropy_coef is 0\.5, outside the usual 0 to 0\.05"):
        loss(entropy, entropy_coef=0.5)


@EACH
def test_an_empty_response_is_as_good_as_none(batch, outputs, total, objective):
    """Group 1 without its empty response, and no group 2, which is empty."""

    def cut(x):
        return x[1:2][:, jnp.array([0, 2])]

    alone = jax.tree.map(lambda x: x[1:2], (outputs, batch._replace(votes=None)))
    cut_out = jax.tree.map(cut, (outputs, batch._replace(votes=None)))
    np.testing.assert_allclose(total(objective(*cut_out)), total(objective(*alone)), rtol=1e-5)
    without_filler = jax.tree.map(lambda x: x[:2], (outputs, batch))
    np.testing.assert_allclose(total(objective(*without_filler)), total(objective(outputs, batch)), rtol=1e-6)


@EACH
def test_a_batch_of_filler_is_no_loss_at_all(batch, outputs, objective):
    nothing = batch._replace(mask=jnp.zeros_like(batch.mask))

    def numerator(outputs):
        loss = objective(outputs, nothing)
        return loss.reduction(loss.values, loss.mask)[0]

    value, gradient = jax.value_and_grad(numerator)(outputs)
    assert value == 0
    assert not any(g.any() for g in jax.tree.leaves(gradient))
    loss = objective(outputs, nothing)
    assert loss.reduction(loss.values, loss.mask)[1] == 0


@EACH
def test_integer_rewards_are_not_truncated(batch, outputs, total, objective):
    rewards = jnp.asarray([[1, 0, 0], [0, 7, 1], [0, 0, 0]])
    as_int, as_float = (
        total(objective(outputs, batch._replace(reward=r))) for r in (rewards, rewards.astype(jnp.float32))
    )
    assert as_int == as_float
    assert as_int != 0


@EACH
def test_no_gradient_flows_into_what_was_computed_before(batch, outputs, total, objective):
    if objective is not objectives.expert_iteration:
        objective = functools.partial(objective, kl_coef=0.1)
        batch = batch._replace(kl_coef=jnp.full(batch.mask.shape[:2], 0.2))
    fields = {n: getattr(batch, n) for n in ("reward", "old_logprobs", "ref_logprobs", "kl_coef")}
    fields = {name: x for name, x in fields.items() if x is not None}
    gradients = jax.grad(lambda fixed: total(objective(outputs, batch._replace(**fixed))))(fields)
    assert not any(g.any() for g in gradients.values())


@EACH
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, objective, poison):
    batch = batch._replace(kl_coef=jnp.full(batch.mask.shape[:2], 0.2))

    def hide(x):
        return jnp.where(batch.mask if x.ndim == 3 else batch.mask.any(-1), x, poison)

    def value_gradient_and_metrics(outputs, batch):
        loss = objective(outputs, batch)
        gradient = jax.grad(lambda out: total(objective(out, batch)))(outputs)
        return total(loss), gradient, {name: losses.masked_mean(*pair) for name, pair in loss.metrics.items()}

    fields = {name: hide(getattr(batch, name)) for name in ("reward", "old_logprobs", "ref_logprobs", "kl_coef")}
    got = value_gradient_and_metrics(jax.tree.map(hide, outputs), batch._replace(**fields))
    jax.tree.map(np.testing.assert_array_equal, got, value_gradient_and_metrics(outputs, batch))


@WITH_RATIO
def test_a_ratio_beyond_float32_stays_finite(batch, outputs, total, objective):
    far = outputs._replace(logprobs=jnp.where(batch.reward[..., None] > 0, 300.0, -300.0) + batch.old_logprobs)
    objective = functools.partial(objective, kl_coef=0.0)
    value, gradient = jax.value_and_grad(lambda out: total(objective(out, batch)))(far)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient.logprobs).all()
    assert jnp.isfinite(losses.masked_mean(*objective(far, batch).metrics["ratio"]))


@EACH
def test_gradient(batch, outputs, total, objective):
    if objective is not objectives.expert_iteration:
        objective = functools.partial(objective, kl_coef=0.3, clip_low=0.1, clip_high=0.15)
    with jax.enable_x64(True):
        logprobs = jnp.asarray(np.asarray(outputs.logprobs), jnp.float64)
        check_grads(lambda x: total(objective(Outputs(logprobs=x), batch)), (logprobs,), order=1, modes=["rev"])


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_expert_iteration_is_sft_on_the_best(batch, outputs, total, keep):
    best = [np.argsort(-np.asarray(batch.reward[b]))[:keep] for b in (0, 1)]
    best[1] = [k for k in np.argsort(-np.asarray(batch.reward[1])) if k != 1][:keep]  # the empty one is never kept
    kept = np.zeros(batch.mask.shape, bool)
    for b in (0, 1):
        kept[b, best[b]] = batch.mask[b, np.asarray(best[b])]
    loss = objectives.expert_iteration(outputs, batch, keep=keep)
    np.testing.assert_array_equal(loss.mask, kept)
    sft = objectives.sft(outputs, batch._replace(mask=jnp.asarray(kept)))
    np.testing.assert_allclose(total(loss), total(sft), rtol=1e-6)
    if keep == 1:
        sliced = jax.tree.map(
            lambda x: jnp.stack([x[b, best[b]] for b in (0, 1)]), (outputs, batch._replace(votes=None))
        )
        np.testing.assert_allclose(total(loss), total(objectives.sft(*sliced)), rtol=1e-6)


def test_the_first_of_equal_rewards_is_kept(batch, outputs):
    level = batch._replace(reward=jnp.full(batch.mask.shape[:2], -jnp.inf))
    kept = objectives.expert_iteration(outputs, level).mask.any(-1)
    np.testing.assert_array_equal(kept, [[True, False, False], [True, False, False], [False, False, False]])
    kept = objectives.expert_iteration(outputs, level, keep=2).mask.any(-1)
    np.testing.assert_array_equal(kept, [[True, True, False], [True, False, True], [False, False, False]])


def test_expert_iteration_logs_what_it_kept(batch, outputs):
    metrics = objectives.expert_iteration(outputs, batch).metrics
    reward = np.asarray(batch.reward)
    best = [reward[0].max(), reward[1, [0, 2]].max()]
    np.testing.assert_allclose(losses.masked_mean(*metrics["kept_reward"]), np.mean(best), rtol=1e-6)
    everyone = reward[np.asarray(batch.mask.any(-1))].mean()
    np.testing.assert_allclose(losses.masked_mean(*metrics["reward"]), everyone, rtol=1e-6)
    assert set(metrics) == {"reward", "kept_reward", "entropy"}


@WITH_RATIO
@pytest.mark.parametrize("name", ["old_logprobs", "reward"])
def test_missing_fields_are_named(batch, outputs, objective, name):
    with pytest.raises(ValueError, match=rf"batch\.{name} is None"):
        objective(outputs, batch._replace(**{name: None}), kl_coef=0.0)


@EACH
def test_missing_logprobs_are_named(batch, outputs, objective):
    with pytest.raises(ValueError, match=r"outputs\.logprobs is None"):
        objective(outputs._replace(logprobs=None), batch)


def test_expert_iteration_needs_rewards(batch, outputs):
    with pytest.raises(ValueError, match=r"batch\.reward is None"):
        objectives.expert_iteration(outputs, batch._replace(reward=None))


@WITH_RATIO
def test_a_single_response_a_prompt_is_refused(batch, outputs, objective):
    single = jax.tree.map(lambda x: x[:, :1], (outputs, batch._replace(votes=None)))
    with pytest.raises(ValueError, match="K must be at least 2, found 1"):
        objective(*single)


@WITH_RATIO
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"clip_low": 0.0}, "clip_low must be above 0"),
        ({"clip_high": -0.2}, "clip_high must be above 0"),
        ({"kl_coef": -0.1}, "kl_coef must be at least 0"),
        ({"kl_coef": math.nan}, "kl_coef must be at least 0"),
    ],
)
def test_nonsense_is_refused(batch, outputs, objective, bad, message):
    with pytest.raises(ValueError, match=message):
        objective(outputs, batch, **bad)


@pytest.mark.parametrize(
    ("objective", "bad", "message"),
    [
        (objectives.dr_grpo, {"max_length": 0}, "max_length must be at least 1, found 0"),
        (objectives.expert_iteration, {"keep": 0}, "keep must be at least 1 and at most 3, found 0"),
        (objectives.expert_iteration, {"keep": 4}, "keep must be at least 1 and at most 3, found 4"),
    ],
)
def test_impossible_counts_are_refused(batch, outputs, objective, bad, message):
    with pytest.raises(ValueError, match=message):
        objective(outputs, batch, **bad)


@WITH_RATIO
@pytest.mark.parametrize("unusual", [{"clip_low": 0.9}, {"clip_high": 1e-6}, {"kl_coef": 3.0}])
def test_the_unusual_is_warned_of(batch, outputs, objective, unusual):
    with pytest.warns(UnusualHyperparameter, match=next(iter(unusual))):
        objective(outputs, batch, **unusual)


@EACH
def test_defaults_and_clips_switched_off_are_not_warned_of(batch, outputs, objective):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(outputs, batch)
        if objective is not objectives.expert_iteration:
            loss = objective(outputs, batch, clip_low=math.inf, clip_high=math.inf)
            assert losses.masked_mean(*loss.metrics["clip_fraction"]) == 0
