"""From sampled responses to a batch that is ready for updates: shaped rewards, the KL to the reference, advantages.

``prepare_batch`` calls the others in that order; each is a pure function of arrays and the config.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses, rewards
from rlhf_jax.rewards import Moments
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.stages.online.config import OnlineConfig, PPOConfig
from rlhf_jax.stages.online.gap import gap_metrics
from rlhf_jax.stages.scoring import Scores
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array, Outputs, Rollout, SequenceBatch


def prepare_batch(
    config: OnlineConfig,
    sampled: Rollout,
    out: Outputs,
    ref_logprobs: Array,
    scores: Scores,
    *,
    coef: Array,
    moments: Moments,
) -> tuple[SequenceBatch, Metrics]:
    """Compute everything that an update reads and that is not to change while it goes on.

    Args:
        config: the stage's; with a ``PPOConfig`` there is a critic.
        sampled: the responses, [B, K, P + R].
        out: the policy's log-probabilities of them, at the temperature that they were sampled at, and maybe the
            critic's values, [B, K, P + R].
        ref_logprobs: the reference's log-probabilities, likewise.
        scores: what the reward said of them, [B, K].
        coef: the controller's coefficient of the KL, [].
        moments: mean and spread of the scores before this iteration.

    Returns:
        The batch, and the iteration's metrics as ``(sum, weight)`` pairs.
    """
    batch = as_batch(sampled)
    lengths = jnp.sum(sampled.mask, axis=-1)
    moments = rewards.add_to_moments(moments, scores.reward)
    shaped = rewards.shape_rewards(scores.reward, sampled.finished, lengths, moments, config.shaping)
    batch = batch._replace(score=scores.reward, reward=shaped, old_logprobs=out.logprobs, ref_logprobs=ref_logprobs)
    if config.staleness:
        batch = add_behaviour(config, batch, sampled.logprobs)
    info = {
        **rollout_metrics(batch, sampled),
        "disagreement": (jnp.sum(scores.disagreement), jnp.float32(shaped.size)),
        **({} if scores.abstained is None else {"abstained": (jnp.sum(scores.abstained), jnp.float32(shaped.size))}),
        **(weight_metrics(batch, config.importance_cap) if config.staleness else {}),
    }
    if not config.staleness:  # an older policy's are further from the trainer's than rounding explains
        info |= gap_metrics(out.logprobs, sampled.logprobs, sampled.mask)
    if config.kl.kind != "objective":
        info["kl_coef"] = once(coef)
    if isinstance(config, PPOConfig):
        batch = add_advantages(config, batch, out.values, coef)
        info["explained_variance"] = once(explained_variance(out.values, batch.returns, batch.mask))
    return add_kl(config, batch, coef), info


def add_behaviour(config: OnlineConfig, batch: SequenceBatch, logprobs: Array) -> SequenceBatch:
    """Put into the batch what weighs the samples of an older policy: its log-probabilities, and the largest weight.

    The objective makes the weights of them, as only it knows whether a token or a response is what is weighed.

    Args:
        config: ``importance_cap``.
        batch: with the shaped ``reward`` [B, K].
        logprobs: the sampler's own, [B, K, S].
    """
    cap = jnp.full(batch.reward.shape, config.importance_cap, jnp.float32)
    return batch._replace(behaviour_logprobs=logprobs, importance_cap=cap)


def weight_metrics(batch: SequenceBatch, cap: float) -> Metrics:
    """Compute the mean importance weight of a token, and which share of tokens and responses they are worth so weighed.

    A response's own weight is that of all its tokens together, as objectives have it to which it is one action.

    Args:
        batch: with ``old_logprobs`` and ``behaviour_logprobs`` [B, K, S].
        cap: the largest weight.
    """
    old, behaviour = (losses.masked_fill(x, batch.mask) for x in (batch.old_logprobs, batch.behaviour_logprobs))
    weights = losses.truncated_importance_weights(old, behaviour, cap=cap)
    apart = jnp.sum(old - behaviour, axis=-1)
    whole = losses.truncated_importance_weights(apart, jnp.zeros_like(apart), cap=cap)
    return {
        "importance_weight": (losses.masked_sum(weights, batch.mask), jnp.sum(batch.mask, dtype=jnp.float32)),
        "effective_sample_size": once(losses.effective_sample_size(weights, batch.mask)),
        "effective_responses": once(losses.effective_sample_size(whole, batch.mask.any(-1))),
    }


def kl_in_reward(config: OnlineConfig, coef: Array) -> Array:
    """Return the coefficient of the KL in the reward: the controller's, or 0 where the KL is in the loss."""
    in_loss = config.kl.kind == "objective" or config.kl.placement == "loss"
    return jnp.float32(0) if in_loss else coef


def add_kl(config: OnlineConfig, batch: SequenceBatch, coef: Array) -> SequenceBatch:
    """Take the KL penalty from the reward of every response, or put its coefficient into the batch for the loss.

    ``reward = shaped reward - coef * sum_t [log pi_old - log pi_ref]``

    Args:
        config: ``kl.placement`` says where; with ``kl.kind = "objective"`` the objective has a coefficient of its own.
        batch: with the shaped ``reward`` [B, K], ``old_logprobs`` and ``ref_logprobs`` [B, K, S].
        coef: the controller's, [].

    Returns:
        The batch with ``reward``, and ``kl_coef`` [B, K] unless the objective has its own.

    Source: Ziegler et al. 2019; Shao et al. 2024 for the KL in the loss.
    """
    if config.kl.kind != "objective":
        in_loss = coef if config.kl.placement == "loss" else jnp.float32(0)
        batch = batch._replace(kl_coef=jnp.broadcast_to(in_loss, batch.reward.shape))
    return batch._replace(reward=batch.reward - kl_in_reward(config, coef) * response_kl(batch))


def add_advantages(config: PPOConfig, batch: SequenceBatch, values: Array, coef: Array) -> SequenceBatch:
    """Spread shaped rewards and KL over the tokens, and compute advantages and returns by GAE.

    Args:
        config: ``gamma``, ``gae_lambda``, whether advantages are whitened, and where the KL acts.
        batch: with the shaped ``reward`` [B, K], ``old_logprobs`` and ``ref_logprobs`` [B, K, S].
        values: the critic's, [B, K, S].
        coef: the controller's coefficient of the KL, [].

    Returns:
        The batch with ``advantages``, ``returns`` and ``old_values``, each [B, K, S].
    """
    per_token = losses.kl_penalised_rewards(
        batch.reward, batch.old_logprobs, batch.ref_logprobs, batch.mask, kl_coef=kl_in_reward(config, coef)
    )
    advantages, returns = losses.gae(per_token, values, batch.mask, gamma=config.gamma, gae_lambda=config.gae_lambda)
    if config.whiten_advantages:
        advantages = losses.masked_whiten(advantages, batch.mask)
    return batch._replace(advantages=advantages, returns=returns, old_values=values)


def response_kl(batch: SequenceBatch) -> Array:
    """Sum k1 over each response, [B, K], nats: unbiased for the KL of the policy that sampled."""
    return losses.masked_sum(losses.k1(batch.old_logprobs, batch.ref_logprobs), batch.mask, axis=-1)


def rollout_metrics(batch: SequenceBatch, sampled: Rollout) -> Metrics:
    """Compute what the log says of an iteration's responses, before the KL is taken from their rewards."""
    count = jnp.float32(batch.mask.shape[0] * batch.mask.shape[1])
    tokens = jnp.sum(batch.mask, dtype=jnp.float32)
    kl = response_kl(batch)
    return {
        "kl": (jnp.sum(kl), count),
        "kl_per_token": (jnp.sum(kl), tokens),
        "proxy_mean": (jnp.sum(batch.score), count),
        "proxy_std": once(jnp.std(batch.score)),
        "shaped_reward": (jnp.sum(batch.reward), count),
        "length": (tokens, count),
        "eos_rate": (jnp.sum(sampled.finished, dtype=jnp.float32), count),
    }


def explained_variance(values: Array, returns: Array, mask: Array) -> Array:
    """Compute how much of the returns' variance the critic explains, over response tokens.

    ``1 - Var(returns - values) / Var(returns)``: a perfect critic has 1, a constant one 0.
    """

    def variance(x: Array) -> Array:
        return losses.masked_mean(x * x, mask) - losses.masked_mean(x, mask) ** 2

    return 1.0 - variance(returns - values) / jnp.maximum(variance(returns), 1e-8)


def once(x: Array) -> tuple[Array, Array]:
    """Make a (sum, weight) pair of a figure that is no mean."""
    return x.astype(jnp.float32), jnp.float32(1)
