"""GSPO: GRPO whose probability ratio, and so its clip, is of the whole response."""

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


def gspo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The clipped surrogate of whole responses, with the geometric mean of the token ratios as their ratio.

    ``L = -min(rho A_k, clip(rho, 1 - clip_low, 1 + clip_high) A_k) + mean_t (kl_coef kl_t - entropy_coef H_t)``,
    ``rho = exp(mean_t (log pi(y_t) - log pi_old(y_t)))``, ``A_k = (r_k - mean) / (std + 1e-4)`` over the group

    The reward is of the response, and so is what is clipped: all of its tokens or none. A mean over many tokens moves
    little, hence the narrow range. The ratio is ``losses.gspo_ratio``.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` and ``old_logprobs`` [B, K, S], ``reward`` [B, K]; with a KL ``ref_logprobs`` [B, K, S]. A
            controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. No gradient flows into
            any of them.
        clip_low: room of a response's ratio below 1; usually 3e-4 (Zheng et al. 2025); inf switches it off.
        clip_high: room above 1; usually 4e-4.
        kl_coef: weight of the KL in the loss; 0 in the paper, which needs no reference.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Schulman et al. 2017).
        kl_estimator: estimates the KL per token, ``losses.k3`` or ``k2``. The gradient of ``k1`` is 0 on average.

    Returns:
        One loss a response, [B, K], averaged over responses by ``losses.token_mean``. Empty responses do not enter the
        group. Metrics (ratio and clips are of responses):
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
        >>> print(gspo(Outputs(logprobs=x), batch).values.round(2))
        [[-0.71  0.71]]

    Source: Zheng et al. 2025, eqs. 5 and 7 (arXiv:2507.18071).
    """
    check_clips(clip_low, clip_high, 1e-4, 1e-2, "Zheng et al. 2025")
    check_kl_coef(kl_coef, "Shao et al. 2024")
    check_entropy_coef(entropy_coef, "Schulman et al. 2017")
    return clipped_group(
        outputs,
        batch,
        group_advantages(batch),
        clip_low=clip_low,
        clip_high=clip_high,
        pool=losses.masked_mean,
        reduction=losses.token_mean,
        kl_coef=kl_coef,
        entropy_coef=entropy_coef,
        kl_estimator=kl_estimator,
    )
