"""Dr. GRPO: GRPO without the two divisions that favour some responses: by the group's std and by the own length."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range
from rlhf_jax.objectives.group import (
    Estimator,
    check_clips,
    check_entropy_coef,
    check_kl_coef,
    clipped_group,
    group_advantages,
)
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def dr_grpo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    max_length: int,
    kl_coef: float = 0.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    entropy_coef: float = 0.0,
    kl_estimator: Estimator = losses.k3,
) -> Loss:
    """The clipped surrogate summed over each response and divided by a constant, under unscaled advantages.

    ``L = sum_t [-min(rho_t A_k, clip(rho_t, 1 - clip_low, 1 + clip_high) A_k) + x_t] / max_length``,
    ``x_t = kl_coef kl_t - entropy_coef H_t``, ``A_k = r_k - mean`` over the group

    Divided by its own length, a long wrong response is punished less per token than a short one, and responses grow;
    divided by the std, prompts that are nearly always or nearly never solved weigh most.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` and ``old_logprobs`` [B, K, S], ``reward`` [B, K]; with a KL ``ref_logprobs`` [B, K, S]. A
            controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. No gradient flows into
            any of them.
        max_length: the longest response allowed, in tokens: the sampler's limit, not the batch's longest.
        kl_coef: weight of the KL in the loss; 0 (Liu et al. 2025), up to 0.04; 0 needs no reference.
        clip_low: room of a token's probability ratio below 1; usually 0.2; inf switches it off.
        clip_high: room above 1; usually 0.2.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Schulman et al. 2017).
        kl_estimator: estimates the KL per token, ``losses.k3`` or ``k2``. The gradient of ``k1`` is 0 on average.

    Returns:
        Per-token losses, reduced by ``losses.sequence_sum``. Empty responses do not enter the group. Metrics:
        ``policy_loss``, ``ratio``, ``clip_fraction``, ``approx_kl`` (k3 a token, from the sampling policy to this one),
        ``advantage``, ``advantage_abs``, ``reward``, ``entropy`` if the outputs have it, and with a KL ``ref_kl``
        (to the reference, nats a token).

    Raises:
        ValueError: if ``max_length`` < 1 or K < 2, a field is missing, a clip is not above 0 or a weight is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.zeros((1, 2, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.broadcast_to(jnp.arange(2), (1, 2, 2)),
        ...                       old_logprobs=x, ref_logprobs=x, reward=jnp.array([[5.0, 1.0]]))
        >>> print(dr_grpo(Outputs(logprobs=x), batch, max_length=4).values)
        [[[-0.5 -0.5]
          [ 0.5  0.5]]]

    Source: Liu et al. 2025 (arXiv:2503.20783).
    """
    check_range("max_length", max_length, at_least=1)
    check_clips(clip_low, clip_high, 0.05, 0.5, "Liu et al. 2025; Yu et al. 2025")
    check_kl_coef(kl_coef, "Shao et al. 2024")
    check_entropy_coef(entropy_coef, "Schulman et al. 2017")
    # The paper's sum over a group's tokens, divided by a constant and averaged over responses, is the mean over
    # responses of sum / max_length. losses.constant would need the number of responses in the global batch, which an
    # objective does not know, and would count those that are empty.
    return clipped_group(
        outputs,
        batch,
        group_advantages(batch, normalise_std=False),
        clip_low=clip_low,
        clip_high=clip_high,
        reduction=losses.sequence_sum,
        scale=1 / max_length,
        kl_coef=kl_coef,
        entropy_coef=entropy_coef,
        kl_estimator=kl_estimator,
    )
