"""What the objectives on the policy's own samples share: the clipped policy gradient of a group, and where the KL goes.

Not an objective. The group methods differ in five places, and each is an argument here: the signal (``advantages``),
what the ratio is of (``pool``: a token or a whole response), how far it may move (``clip_low``, ``clip_high``), the
reduction (``reduction``, ``scale``), and the KL, which is either part of the reward that the advantages are made of
(``penalised_reward``) or a term of the loss (``kl_coef``). All may have an entropy bonus (``entropy_coef``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.losses.masked import Reduction
from rlhf_jax.losses.ppo import MAX_LOG_RATIO
from rlhf_jax.objectives.fields import fixed, kl_weight, learned, weighted
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch

Estimator = Callable[[Array, Array], Array]

# What a reduction does within one response, so that the logged mean of a term is its part of the loss.
_WITHIN_RESPONSE: dict[Reduction, Callable[..., Array]] = {
    losses.sequence_mean: losses.masked_mean,
    losses.sequence_sum: losses.masked_sum,
}


def clipped_group(
    outputs: Outputs,
    batch: SequenceBatch,
    advantages: Array,
    *,
    clip_low: float,
    clip_high: float,
    reduction: Reduction,
    pool: Callable[..., Array] | None = None,
    scale: float = 1.0,
    kl_coef: float | None,
    entropy_coef: float,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The clipped policy gradient of responses that share one advantage on all their tokens.

    ``L = scale (-min(rho A_k, clip(rho, 1 - clip_low, 1 + clip_high) A_k) + kl_coef kl - entropy_coef H)``, with
    ``rho = exp(log pi(y_t) - log pi_old(y_t))`` a token, or ``rho = exp(pool_t ...)`` a response

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` and ``old_logprobs`` [B, K, S], ``reward`` [B, K]; with a KL in the loss ``ref_logprobs``
            [B, K, S]; ``kl_coef`` [B, K], if it is there, replaces the number of that name. Where an older policy
            sampled, ``behaviour_logprobs`` [B, K, S] and ``importance_cap`` [B, K] weigh the policy's term, a token or,
            where there is a ``pool``, a response.
        advantages: [B, K], constants.
        clip_low: room of the ratio below 1.
        clip_high: room above 1.
        reduction: one of ``losses``, over tokens, or over responses where there is a ``pool``.
        pool: ``losses.masked_sum`` or ``losses.masked_mean``: makes one log-ratio, one weight, one KL and one entropy
            of a response's tokens.
        scale: multiplies every value.
        kl_coef: weight of the KL in the loss; None where the KL is in the reward, whatever the batch carries.
        entropy_coef: weight of the entropy bonus.
        kl_estimator: estimates the KL per token.

    Returns:
        Losses [B, K, S], or [B, K] with a ``pool``. Metrics: ``policy_loss``, ``ratio``, ``clip_fraction``,
        ``approx_kl`` (k3 a token, from the sampling policy to this one), ``advantage``, ``advantage_abs``, ``reward``,
        ``entropy`` if the outputs have it, and ``ref_kl`` (to the reference, nats a token) if it is in the loss.

    Raises:
        ValueError: if a field is missing or a clip is not above 0.
    """
    mask, present = batch.mask, batch.mask.any(-1)
    logprobs = learned(outputs.logprobs, "outputs.logprobs", mask)
    old_logprobs = fixed(batch.old_logprobs, "batch.old_logprobs", mask)
    reward = fixed(batch.reward, "batch.reward", present)

    if pool is None:
        log_ratio, counted = logprobs - old_logprobs, mask
        advantage = jnp.broadcast_to(advantages[..., None], mask.shape)
    else:
        # The difference is summed, not the terms: a sum of a thousand log-probabilities leaves few digits for it.
        log_ratio, counted, advantage = pool(logprobs - old_logprobs, mask, axis=-1), present, advantages
    policy_loss = scale * losses.clipped_surrogate(
        log_ratio, jnp.zeros_like(log_ratio), advantage, clip_low=clip_low, clip_high=clip_high
    )
    policy_loss = weighted(policy_loss, batch, pool)
    ratio = jnp.exp(jnp.minimum(log_ratio, MAX_LOG_RATIO))
    within = _WITHIN_RESPONSE.get(reduction)
    metrics = {
        "policy_loss": (policy_loss, counted) if within is None else (within(policy_loss, mask, axis=-1), present),
        "ratio": (ratio, counted),
        "clip_fraction": ((ratio < 1 - clip_low) | (ratio > 1 + clip_high), counted),
        "approx_kl": (losses.k3(old_logprobs, logprobs), mask),
        "advantage": (advantages, present),
        "advantage_abs": (jnp.abs(advantages), present),
        "reward": (reward, present),
    }
    values = policy_loss
    if entropy_coef != 0 or outputs.entropy is not None:
        entropy = learned(outputs.entropy, "outputs.entropy", mask)
        metrics["entropy"] = (entropy, mask)
        if entropy_coef != 0:
            values = values - scale * entropy_coef * (entropy if pool is None else pool(entropy, mask, axis=-1))
    if kl_coef is not None and has_kl(batch, kl_coef):
        penalty, kl = kl_penalty(logprobs, batch, kl_coef, kl_estimator)
        values = values + scale * (penalty if pool is None else pool(penalty, mask, axis=-1))
        metrics["ref_kl"] = (kl, mask)
    return Loss(values, counted, reduction, metrics)


def group_advantages(batch: SequenceBatch, *, normalise_std: bool = True) -> Array:
    """GRPO's advantages [B, K] of a batch's rewards, among the responses that are not empty; constants."""
    present = batch.mask.any(-1)
    reward = fixed(batch.reward, "batch.reward", present)
    return losses.grpo_advantages(reward, normalise_std=normalise_std, mask=present)


def penalised_reward(batch: SequenceBatch, kl_coef: float) -> tuple[Array, Array, Array | None]:
    """The reward of each response, without and with what it pays for its KL to the reference.

    ``r(x, y) - kl_coef sum_t (log pi_old(y_t) - log pi_ref(y_t))``

    Args:
        batch: ``mask`` [B, K, S], ``reward`` [B, K]; with a KL ``old_logprobs`` and ``ref_logprobs`` [B, K, S], and
            ``kl_coef`` [B, K] in place of the number if it is there.
        kl_coef: the price of a nat; 0 is none.

    Returns:
        The reward [B, K], the penalised one [B, K], and the KL of each token [B, K, S] (None without one). All are
        constants.

    Raises:
        ValueError: if a field is missing.
    """
    mask = batch.mask
    reward = fixed(batch.reward, "batch.reward", mask.any(-1))
    if not has_kl(batch, kl_coef):
        return reward, reward, None
    old_logprobs = fixed(batch.old_logprobs, "batch.old_logprobs", mask)
    kl = losses.k1(old_logprobs, fixed(batch.ref_logprobs, "batch.ref_logprobs", mask))
    return reward, reward - losses.masked_sum(kl_weight(batch, kl_coef) * kl, mask, axis=-1), kl


def kl_penalty(logprobs: Array, batch: SequenceBatch, kl_coef: float, estimator: Estimator) -> tuple[Array, Array]:
    """What each token pays for its KL to the reference, and that KL without a gradient, for the log.

    ``kl_coef kl_t``

    Args:
        logprobs: [B, K, S], the policy's, 0 behind the mask.
        batch: ``mask`` and ``ref_logprobs`` [B, K, S]; ``kl_coef`` [B, K] in place of the number if it is there.
        kl_coef: the price of a nat.
        estimator: estimates the KL per token.

    Returns:
        Two arrays [B, K, S]. A weight of 0 is no penalty, even where the estimate overflows.

    Raises:
        ValueError: if ``batch.ref_logprobs`` is missing.
    """
    ref_logprobs = fixed(batch.ref_logprobs, "batch.ref_logprobs", batch.mask)
    weight = kl_weight(batch, kl_coef)
    # A controller of the KL in the reward leaves a 0 here, and 0 times an overflow is NaN.
    penalty = weight * estimator(jnp.where(weight != 0, logprobs, ref_logprobs), ref_logprobs)
    return penalty, estimator(jax.lax.stop_gradient(logprobs), ref_logprobs)


def has_kl(batch: SequenceBatch, kl_coef: float) -> bool:
    """Whether there is a KL to pay for: a weight other than 0, or a controller's in the batch."""
    return kl_coef != 0 or batch.kl_coef is not None


def check_clips(clip_low: ArrayLike, clip_high: ArrayLike, low: float, high: float, source: str) -> None:
    """Refuse clips that are not above 0 and warn of unusual ones; inf, which switches a clip off, is no accident."""
    for name, clip in (("clip_low", clip_low), ("clip_high", clip_high)):
        check_range(name, clip, above=0)
        if not (isinstance(clip, float) and math.isinf(clip)):
            warn_outside(name, clip, low, high, source)


def check_kl_coef(kl_coef: float, source: str) -> None:
    """Refuse a negative weight of the KL and warn of an unusual one."""
    check_range("kl_coef", kl_coef, at_least=0)
    warn_outside("kl_coef", kl_coef, 0.0, 0.5, source)


def check_entropy_coef(entropy_coef: float, source: str) -> None:
    """Refuse a negative weight of the entropy bonus and warn of an unusual one."""
    check_range("entropy_coef", entropy_coef, at_least=0)
    warn_outside("entropy_coef", entropy_coef, 0.0, 0.05, source)
