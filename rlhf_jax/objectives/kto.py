"""Kahneman-Tversky optimisation: thumbs up or down on single responses, no pairs needed."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.objectives.fields import fixed, learned
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def kto(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Move responses with thumbs up above a reference point, and those with thumbs down below it.

    ``L = w_D [1 - sigmoid(beta (h - z))]`` where desirable, ``w_U [1 - sigmoid(beta (z - h))]`` where not,
    with ``h = s - s_ref`` summed over the response and ``z = max(0, batch.kl)``

    ``z`` estimates how far the policy is from the reference on prompts and responses that do not belong together; it
    takes the whole global batch to estimate, so it comes with the batch.

    Args:
        outputs: ``logprobs`` [B, K, S]; any K.
        batch: ``mask`` and ``ref_logprobs`` [B, K, S]; ``label`` [B, K], above 1/2 for thumbs up; ``kl`` [B, K], nats,
            the same number everywhere. No gradient flows into them.
        beta: how fast value saturates away from the reference point; usually 0.01 to 0.5 (0.1 in Ethayarajh et al.
            2024).
        desirable_weight: ``w_D``.
        undesirable_weight: ``w_U``; the two make ``w_D n_D / (w_U n_U)`` of the dataset usually 1 to 4/3 (Ethayarajh et
            al. 2024).

    Returns:
        A loss [B, K] averaged over the responses that are not empty. Metrics: ``desirable_reward`` and
        ``undesirable_reward`` (mean implicit reward ``beta h`` of either sort), and ``reference_point``
        (``z``).

    Raises:
        ValueError: if a field is missing, ``beta`` is not above 0 or a weight is negative.

    Example:
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, label=jnp.array([[1.0, 0.0]]),
        ...                       kl=jnp.zeros((1, 2)), ref_logprobs=jnp.array([[[-10.0], [-10.0]]]))
        >>> loss = kto(Outputs(logprobs=jnp.array([[[-8.0], [-8.0]]])), batch, beta=0.5)
        >>> print(f"{loss.values[0, 0]:.4f} {loss.values[0, 1]:.4f}")  # 1 / (1 + e), e / (1 + e)
        0.2689 0.7311

    Source: Ethayarajh et al. 2024, section 4 (arXiv:2402.01306).
    """
    warn_outside("beta", beta, 0.01, 0.5, "Ethayarajh et al. 2024")
    mask = batch.mask
    present = mask.any(-1)  # [B, K]
    logprobs = losses.masked_sum(learned(outputs.logprobs, "outputs.logprobs", mask), mask, axis=-1)
    ref = losses.masked_sum(fixed(batch.ref_logprobs, "batch.ref_logprobs", mask), mask, axis=-1)
    desirable = fixed(batch.label, "batch.label", present) > 0.5
    kl = jnp.maximum(fixed(batch.kl, "batch.kl", present), 0)
    values = losses.kto(
        logprobs,
        ref,
        desirable,
        kl,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    rewards = losses.implicit_reward(logprobs, ref, beta=beta)
    metrics = {
        "desirable_reward": (rewards, present & desirable),
        "undesirable_reward": (rewards, present & ~desirable),
        "reference_point": (kl, present),
    }
    return Loss(values, present, losses.token_mean, metrics)
