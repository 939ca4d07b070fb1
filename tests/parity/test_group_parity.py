"""Objectives on the policy's own samples against TRL's GRPOTrainer and RLOOTrainer, from rewards to gradients."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problem import RESPONSE, ours, outputs, problem

from rlhf_jax import losses, objectives

pytestmark = pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")

BATCH = problem(4, 3, seed=6)
REWARDS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
REWARDS[2] = 0.5  # a group that teaches nothing

# TRL multiplies the KL in the loss by the probability ratio unless told otherwise. The KL estimate is then unbiased for
# the policy that is trained although another one sampled (DeepSeek-V3.2), but it is no part of GRPO, and not of ours.
PLAIN_KL = {"use_bias_correction_kl": False}


def value_gradient(objective, *batches, **options):
    """Of the whole batch, or of it in pieces of the same number of groups."""
    batch = BATCH.batch._replace(reward=jnp.asarray(REWARDS))
    return ours(functools.partial(objective, **options), BATCH.logits, *(batches or [batch]))


def clip_fraction(objective, **options):
    batch = BATCH.batch._replace(reward=jnp.asarray(REWARDS))
    loss = objective(outputs(BATCH.logits, batch), batch, **options)
    return float(losses.masked_mean(*loss.metrics["clip_fraction"]))


CLIPS = [(0.2, 0.2), (0.1, 0.28)]  # of tokens
MEAN_CLIPS = [(0.1, 0.1), (0.05, 0.1)]  # of GSPO's means over tokens; the paper's 3e-4 would clip everything here
SUM_CLIPS = [(0.2, 0.2), (0.3, 0.5)]  # of whole responses


@pytest.mark.parametrize("normalise_std", [True, False])
def test_grpo_advantages(trl, normalise_std):
    # Both divide the variance by K - 1, and add 1e-4 to its root.
    theirs, _ = trl.grpo(BATCH, REWARDS, loss_type="grpo", scale_rewards="group" if normalise_std else "none")
    found = losses.grpo_advantages(REWARDS, normalise_std=normalise_std)
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise_std", [True, False])
@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_grpo(trl, compare, kl_coef, clip, normalise_std):
    _, theirs = trl.grpo(
        BATCH,
        REWARDS,
        loss_type="grpo",
        beta=kl_coef,
        epsilon=clip[0],
        epsilon_high=clip[1],
        scale_rewards="group" if normalise_std else "none",
        **PLAIN_KL,
    )
    options = {"kl_coef": kl_coef, "clip_low": clip[0], "clip_high": clip[1], "normalise_std": normalise_std}
    compare(value_gradient(objectives.grpo, **options), theirs)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_dr_grpo(trl, compare, kl_coef, clip):
    _, theirs = trl.grpo(
        BATCH,
        REWARDS,
        loss_type="dr_grpo",
        scale_rewards="none",
        beta=kl_coef,
        epsilon=clip[0],
        epsilon_high=clip[1],
        **PLAIN_KL,
    )
    options = {"max_length": RESPONSE, "kl_coef": kl_coef, "clip_low": clip[0], "clip_high": clip[1]}
    compare(value_gradient(objectives.dr_grpo, **options), theirs)


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])  # the same on one batch; on several, "dapo" is the global mean
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_dapo(trl, compare, kl_coef, loss_type):
    _, theirs = trl.grpo(BATCH, REWARDS, loss_type=loss_type, beta=kl_coef, epsilon=0.2, epsilon_high=0.28, **PLAIN_KL)
    compare(value_gradient(objectives.dapo, kl_coef=kl_coef), theirs)


@pytest.mark.parametrize("clip", MEAN_CLIPS, ids=str)
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_gspo(trl, compare, kl_coef, clip):
    _, theirs = trl.grpo(
        BATCH,
        REWARDS,
        loss_type="grpo",
        importance_sampling_level="sequence",
        beta=kl_coef,
        epsilon=clip[0],
        epsilon_high=clip[1],
        **PLAIN_KL,
    )
    options = {"kl_coef": kl_coef, "clip_low": clip[0], "clip_high": clip[1]}
    compare(value_gradient(objectives.gspo, **options), theirs)


@pytest.mark.parametrize(
    ("objective", "options", "loss_type", "scale_rewards"),
    [
        (objectives.grpo, {"kl_coef": 0.04}, "grpo", "group"),
        (objectives.dr_grpo, {"kl_coef": 0.04, "max_length": RESPONSE}, "dr_grpo", "none"),
        (objectives.dapo, {"kl_coef": 0.04, "clip_high": 0.2}, "dapo", "group"),
    ],
    ids=["grpo", "dr_grpo", "dapo"],
)
def test_micro_batches(trl, compare, objective, options, loss_type, scale_rewards):
    _, theirs = trl.grpo(
        BATCH, REWARDS, micro_batches=2, loss_type=loss_type, scale_rewards=scale_rewards, beta=0.04, **PLAIN_KL
    )
    batch = BATCH.batch._replace(reward=jnp.asarray(REWARDS))
    halves = [jax.tree.map(operator.itemgetter(part), batch) for part in (slice(2), slice(2, 4))]
    assert BATCH.mask[:2].sum() != BATCH.mask[2:].sum()
    compare(value_gradient(objective, *halves, **options), theirs)


@pytest.mark.parametrize("kl_coef", [0.0, 0.05])
@pytest.mark.parametrize("clip", SUM_CLIPS, ids=str)
def test_rloo(trl, compare, kl_coef, clip):
    # ``normalize_advantages`` is off in TRL by default too.
    advantages, theirs = trl.rloo(BATCH, REWARDS, beta=kl_coef, epsilon=clip[0], epsilon_high=clip[1])
    log_ratio = BATCH.batch.old_logprobs - BATCH.batch.ref_logprobs
    penalised = REWARDS - kl_coef * losses.masked_sum(log_ratio, BATCH.mask, axis=-1)
    np.testing.assert_allclose(losses.rloo_advantages(penalised), advantages, rtol=1e-5, atol=1e-6)
    options = {"kl_coef": kl_coef, "clip_low": clip[0], "clip_high": clip[1]}
    compare(value_gradient(objectives.rloo, **options), theirs)


@pytest.mark.parametrize("dual_clip", [None, 1.5])  # 3 would never act on these ratios
@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_the_policy_loss_of_ppo(trl, compare, kl_coef, dual_clip):
    # TRL 1.16 has no PPO; GRPO's loss on advantages of tokens, averaged over tokens, is PPO's without a critic.
    advantages = np.random.default_rng(2).normal(size=BATCH.mask.shape).astype(np.float32)
    _, theirs = trl.grpo(
        BATCH,
        REWARDS,
        token_advantages=advantages,
        loss_type="bnpo",
        beta=kl_coef,
        epsilon=0.2,
        epsilon_high=0.28,
        delta=dual_clip,
        **PLAIN_KL,
    )
    nothing = jnp.zeros(BATCH.mask.shape)
    batch = BATCH.batch._replace(advantages=jnp.asarray(advantages), returns=nothing, old_values=nothing)

    def policy_loss(outputs, batch):
        outputs = outputs._replace(values=nothing)
        return objectives.ppo(outputs, batch, clip_high=0.28, dual_clip=dual_clip, kl_coef=kl_coef)

    compare(ours(policy_loss, BATCH.logits, batch), theirs)


def test_the_batch_exercises_the_clips():
    clips = ((objectives.grpo, CLIPS), (objectives.gspo, MEAN_CLIPS), (objectives.rloo, SUM_CLIPS))
    for objective, (low, high) in ((objective, clip) for objective, of_it in clips for clip in of_it):
        assert 0.2 < clip_fraction(objective, clip_low=low, clip_high=high) < 0.9
