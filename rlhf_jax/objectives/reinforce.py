"""REINFORCE: the plain policy gradient without a critic; a response is one action."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.objectives.fields import importance_weights, learned
from rlhf_jax.objectives.group import check_entropy_coef, check_kl_coef, penalised_reward
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def reinforce(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    baseline: float = 0.0,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> Loss:
    """The policy gradient with the return of the whole response as every token's advantage.

    ``L = -A sum_t log pi(y_t) - entropy_coef sum_t H_t``,
    ``A = r(x, y) - kl_coef sum_t (log pi_old(y_t) - log pi_ref(y_t)) - baseline``

    There is no probability ratio, so a batch serves one update: after it, its tokens are another policy's.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` [B, K, S] and ``reward`` [B, K]; with a KL ``old_logprobs`` and ``ref_logprobs`` [B, K, S]. A
            controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. Where an older policy
            sampled, ``old_logprobs``, ``behaviour_logprobs`` [B, K, S] and ``importance_cap`` [B, K] weigh each
            response. No gradient flows into any of them.
        baseline: what a response is expected to earn, in units of reward, for instance a running mean of the rewards;
            it lowers the variance and does not move the mean of the gradient.
        kl_coef: price of a nat of KL to the reference, paid in the reward; usually 0.01 to 0.1 (Ahmadian et al. 2024).
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Mnih et al. 2016).

    Returns:
        Per-token losses, reduced by ``losses.sequence_sum``. Metrics: ``policy_loss``, ``advantage``,
        ``advantage_abs``, ``reward``, ``entropy`` if the outputs have it, and with a KL ``ref_kl`` (k1 to the
        reference, nats a token).

    Raises:
        ValueError: if a field is missing or a weight is negative.

    Example:
        >>> x = jnp.zeros((1, 1, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.array([[[0, 1]]]),
        ...                       reward=jnp.array([[5.0]]))
        >>> print(reinforce(Outputs(logprobs=x - 1.0), batch, baseline=2.0).values)
        [[[3. 3.]]]

    Source: Williams 1992; for language models: Ahmadian et al. 2024 (arXiv:2402.14740).
    """
    check_entropy_coef(entropy_coef, "Mnih et al. 2016")
    check_kl_coef(kl_coef, "Ahmadian et al. 2024")
    mask, present = batch.mask, batch.mask.any(-1)
    logprobs = learned(outputs.logprobs, "outputs.logprobs", mask)
    reward, penalised, kl = penalised_reward(batch, kl_coef)
    advantages = penalised - baseline

    policy_loss = losses.policy_gradient(logprobs, jnp.broadcast_to(advantages[..., None], mask.shape))
    weights = importance_weights(batch, losses.masked_sum)  # one a response, which is one action
    if weights is not None:
        policy_loss = weights[..., None] * policy_loss
    metrics = {
        "policy_loss": (losses.masked_sum(policy_loss, mask, axis=-1), present),
        "advantage": (advantages, present),
        "advantage_abs": (jnp.abs(advantages), present),
        "reward": (reward, present),
    }
    values = policy_loss
    if entropy_coef != 0 or outputs.entropy is not None:
        entropy = learned(outputs.entropy, "outputs.entropy", mask)
        metrics["entropy"] = (entropy, mask)
        if entropy_coef != 0:
            values = values - entropy_coef * entropy
    if kl is not None:
        metrics["ref_kl"] = (kl, mask)
    return Loss(values, mask, losses.sequence_sum, metrics)
