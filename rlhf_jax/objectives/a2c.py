"""A2C: the plain policy gradient with a critic. PPO's data, used once."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.fields import fixed, learned, weighted
from rlhf_jax.objectives.group import Estimator, check_entropy_coef, check_kl_coef, has_kl, kl_penalty
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def a2c(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    value_coef: float = 0.1,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The policy gradient, the squared error of the critic, an entropy bonus and perhaps a KL, summed per token.

    ``L_t = -A_t log pi(y_t) + value_coef (V_t - R_t)^2 / 2 - entropy_coef H_t + kl_coef kl_t``

    There is no probability ratio, so a batch serves one update: after it, its tokens are another policy's. On the
    first update of a batch the gradient is that of ``ppo``, and the KL to the reference has the same two places.

    Args:
        outputs: ``logprobs``, ``entropy`` (the policy's) and ``values`` (the critic's), each [B, K, S].
        batch: ``mask``, ``advantages`` and ``returns``, each [B, K, S]; with a KL in the loss ``ref_logprobs``
            [B, K, S]. A controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. No gradient
            flows into any of them. Where an older policy sampled, ``old_logprobs``, ``behaviour_logprobs`` [B, K, S]
            and ``importance_cap`` [B, K] weigh each token's policy gradient.
        value_coef: weight of the value loss; usually 0.1 (Ziegler et al. 2019) to 1.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Mnih et al. 2016).
        kl_coef: weight of the KL in the loss; usually 0, as the standard is a KL in the reward, or up to 0.1.
        kl_estimator: estimates the KL per token, ``losses.k3`` or ``k2``. The gradient of ``k1`` is 0 on average.

    Returns:
        Per-token losses, reduced by ``losses.token_mean``. Metrics: ``policy_loss``, ``value_loss`` and
        ``entropy``; with a KL in the loss ``ref_kl`` (to the reference, nats a token).

    Raises:
        ValueError: if a field is missing or a weight is negative.

    Example:
        >>> x = jnp.zeros((1, 1, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.array([[[0, 1]]]),
        ...                       advantages=x + 2.0, returns=x + 1.0)
        >>> loss = a2c(Outputs(logprobs=x - 3.0, entropy=x, values=x), batch)  # 2 * 3 + 0.1 / 2
        >>> print(loss.values)
        [[[6.05 6.05]]]

    Source: Mnih et al. 2016 (arXiv:1602.01783); as a case of PPO: Huang et al. 2022 (arXiv:2205.09123).
    """
    check_range("value_coef", value_coef, at_least=0)
    check_entropy_coef(entropy_coef, "Mnih et al. 2016")
    check_kl_coef(kl_coef, "Ziegler et al. 2019")
    warn_outside("value_coef", value_coef, 0.01, 1, "Ziegler et al. 2019; Mnih et al. 2016")
    mask = batch.mask
    logprobs = learned(outputs.logprobs, "outputs.logprobs", mask)
    entropy = learned(outputs.entropy, "outputs.entropy", mask)
    values = learned(outputs.values, "outputs.values", mask)
    returns = fixed(batch.returns, "batch.returns", mask)

    policy_loss = losses.policy_gradient(logprobs, fixed(batch.advantages, "batch.advantages", mask))
    policy_loss = weighted(policy_loss, batch)
    value_loss = 0.5 * jnp.square(values - returns)
    per_token = policy_loss + value_coef * value_loss
    if entropy_coef != 0:  # times 0 it would still have a gradient to compute
        per_token = per_token - entropy_coef * entropy
    logged = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
    }
    if has_kl(batch, kl_coef):
        penalty, logged["ref_kl"] = kl_penalty(logprobs, batch, kl_coef, kl_estimator)
        per_token = per_token + penalty
    return Loss(per_token, mask, losses.token_mean, {name: (value, mask) for name, value in logged.items()})
