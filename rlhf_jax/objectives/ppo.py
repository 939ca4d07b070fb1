"""PPO: improve the policy on its own samples, but never far from the policy that drew them; train the critic beside."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.losses.ppo import MAX_LOG_RATIO
from rlhf_jax.objectives.fields import fixed, learned, weighted
from rlhf_jax.objectives.group import Estimator, check_clips, check_entropy_coef, check_kl_coef, has_kl, kl_penalty
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def ppo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    value_clip: float = 0.2,
    value_coef: float = 0.1,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The clipped surrogate, the clipped value loss, an entropy bonus and perhaps a KL, summed per token.

    ``L_t = surrogate_t + value_coef value_t - entropy_coef H_t + kl_coef kl_t``

    The KL to the reference belongs in one of two places. In the reward (``losses.kl_penalised_rewards``), hence in the
    advantages, every token also answers for the KL of the tokens after it; this is the standard, and ``kl_coef`` is
    then 0. In the loss, here, it is a direct pull on each token that needs no credit assignment. In both it counts
    twice.

    The PPO-ptx term (Ouyang et al. 2022) is no part of this objective: it is ``objectives.sft`` on a batch of its own,
    of pretraining text, which the train step adds as a second term.

    Args:
        outputs: ``logprobs``, ``entropy`` (the policy's) and ``values`` (the critic's), each [B, K, S].
        batch: ``mask``, ``old_logprobs``, ``advantages``, ``returns`` and ``old_values``, each [B, K, S]; with a KL in
            the loss ``ref_logprobs`` [B, K, S]. A controller's ``kl_coef`` [B, K], if it is there, replaces the number
            of that name. Where an older policy sampled, ``behaviour_logprobs`` [B, K, S] and ``importance_cap`` [B, K]
            weigh the surrogate of each token. No gradient flows into any of them.
        clip_low: room of the probability ratio below 1; usually 0.2 (Schulman et al. 2017).
        clip_high: room above 1; usually 0.2, or 0.28 to keep exploring (Yu et al. 2025).
        dual_clip: bound for tokens with negative advantage and an exploding ratio; None, or 3 (Ye et al. 2020).
        value_clip: how far a value may move from the old one, in units of reward; usually 0.2; inf switches it off.
        value_coef: weight of the value loss; usually 0.1 (Ziegler et al. 2019) to 1.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Schulman et al. 2017).
        kl_coef: weight of the KL in the loss; usually 0, or up to 0.1 (Shao et al. 2024 use 0.04).
        kl_estimator: estimates the KL per token, ``losses.k3`` or ``k2``. The gradient of ``k1`` is 0 on average.

    Returns:
        Per-token losses, reduced by ``losses.token_mean``. Metrics: ``policy_loss``, ``value_loss``, ``entropy``,
        ``ratio``, ``clip_fraction`` (tokens whose ratio left the range) and ``approx_kl`` (k3, from the sampling policy
        to this one); with a KL in the loss ``ref_kl`` (to the reference, nats a token).

    Raises:
        ValueError: if a field is missing, a clip is not above 0 (``dual_clip``: 1), or a weight is negative.

    Example:
        >>> x = jnp.zeros((1, 1, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.array([[[0, 1]]]),
        ...                       old_logprobs=x, advantages=x + 2.0, returns=x + 1.0, old_values=x + 1.0)
        >>> loss = ppo(Outputs(logprobs=x, entropy=x, values=x + 1.0), batch)  # ratio 1, values right
        >>> print(loss.values)
        [[[-2. -2.]]]

    Source: Schulman et al. 2017, eqs. 7 and 9 (arXiv:1707.06347); Ouyang et al. 2022, eq. 2 (arXiv:2203.02155).
    """
    check_clips(clip_low, clip_high, 0.05, 0.5, "Schulman et al. 2017")
    check_range("value_coef", value_coef, at_least=0)
    check_entropy_coef(entropy_coef, "Schulman et al. 2017")
    check_kl_coef(kl_coef, "Ziegler et al. 2019")
    if dual_clip is not None:
        check_range("dual_clip", dual_clip, above=1)
        warn_outside("dual_clip", dual_clip, 2, 10, "Ye et al. 2020")
    warn_outside("value_coef", value_coef, 0.01, 1, "Schulman et al. 2017")
    mask = batch.mask
    logprobs = learned(outputs.logprobs, "outputs.logprobs", mask)
    entropy = learned(outputs.entropy, "outputs.entropy", mask)
    values = learned(outputs.values, "outputs.values", mask)
    old_logprobs = fixed(batch.old_logprobs, "batch.old_logprobs", mask)
    old_values = fixed(batch.old_values, "batch.old_values", mask)
    advantages = fixed(batch.advantages, "batch.advantages", mask)
    returns = fixed(batch.returns, "batch.returns", mask)

    policy_loss = losses.clipped_surrogate(
        logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    policy_loss = weighted(policy_loss, batch)
    value_loss = losses.clipped_value(values, old_values, returns, clip=value_clip)
    per_token = policy_loss + value_coef * value_loss
    if entropy_coef != 0:  # times 0 it would still have a gradient to compute
        per_token = per_token - entropy_coef * entropy

    ratio = jnp.exp(jnp.minimum(logprobs - old_logprobs, MAX_LOG_RATIO))
    logged = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "ratio": ratio,
        "clip_fraction": (ratio < 1 - clip_low) | (ratio > 1 + clip_high),
        "approx_kl": losses.k3(old_logprobs, logprobs),
    }
    if has_kl(batch, kl_coef):
        penalty, logged["ref_kl"] = kl_penalty(logprobs, batch, kl_coef, kl_estimator)
        per_token = per_token + penalty
    return Loss(per_token, mask, losses.token_mean, {name: (value, mask) for name, value in logged.items()})
