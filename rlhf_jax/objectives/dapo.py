"""DAPO: GRPO in which every token weighs the same, with more room upwards and no KL."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.objectives.group import (
    Estimator,
    check_clips,
    check_entropy_coef,
    check_kl_coef,
    clipped_group,
    group_advantages,
)
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def dapo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The clipped surrogate of each token under its response's advantage, averaged over all tokens.

    ``L_t = -min(rho_t A_k, clip(rho_t, 1 - clip_low, 1 + clip_high) A_k) + kl_coef kl_t - entropy_coef H_t``,
    ``A_k = (r_k - mean) / (std + 1e-4)`` over the group

    Two of the paper's four changes are here: the token mean, and a higher upper clip, which leaves unlikely tokens room
    to grow. The others come before: groups whose rewards are all equal teach nothing and are better sampled anew, and
    the penalty for overlong responses is part of the reward.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` and ``old_logprobs`` [B, K, S], ``reward`` [B, K]; with a KL ``ref_logprobs`` [B, K, S]. A
            controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. No gradient flows into
            any of them.
        clip_low: room of a token's probability ratio below 1; usually 0.2; inf switches it off.
        clip_high: room above 1; usually 0.28 (Yu et al. 2025).
        kl_coef: weight of the KL in the loss; 0 in the paper, which needs no reference.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Schulman et al. 2017).
        kl_estimator: estimates the KL per token, ``losses.k3`` or ``k2``. The gradient of ``k1`` is 0 on average.

    Returns:
        Per-token losses, reduced by ``losses.token_mean``. Empty responses do not enter the group. Metrics:
        ``policy_loss``, ``ratio``, ``clip_fraction``, ``approx_kl`` (k3 a token, from the sampling policy to this one),
        ``advantage``, ``advantage_abs``, ``reward``, ``entropy`` if the outputs have it, and with a KL ``ref_kl``
        (to the reference, nats a token).

    Raises:
        ValueError: if K < 2, a field is missing, a clip is not above 0 or a weight is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.zeros((1, 2, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.broadcast_to(jnp.arange(2), (1, 2, 2)),
        ...                       old_logprobs=x, ref_logprobs=x, reward=jnp.array([[5.0, 1.0]]))
        >>> print(dapo(Outputs(logprobs=x), batch).values.round(2))
        [[[-0.71 -0.71]
          [ 0.71  0.71]]]

    Source: Yu et al. 2025 (arXiv:2503.14476).
    """
    check_clips(clip_low, clip_high, 0.05, 0.5, "Yu et al. 2025")
    check_kl_coef(kl_coef, "Shao et al. 2024")
    check_entropy_coef(entropy_coef, "Schulman et al. 2017")
    return clipped_group(
        outputs,
        batch,
        group_advantages(batch),
        clip_low=clip_low,
        clip_high=clip_high,
        reduction=losses.token_mean,
        kl_coef=kl_coef,
        entropy_coef=entropy_coef,
        kl_estimator=kl_estimator,
    )
