"""Supervised fine-tuning: raise the likelihood of the responses people gave."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.objectives.fields import required
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def sft(outputs: Outputs, batch: SequenceBatch) -> Loss:
    """Cross entropy of the response tokens; the prompt is behind the mask.

    ``L = -sum_t mask_t log p(y_t) / sum_t mask_t``, over the whole global batch

    Args:
        outputs: ``logprobs`` [B, K, S].
        batch: ``mask`` [B, K, S].

    Returns:
        Per-token losses, nats, reduced by ``losses.token_mean``.

    Raises:
        ValueError: if ``outputs.logprobs`` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> tokens = jnp.zeros((1, 1, 3), int)
        >>> batch = SequenceBatch(tokens, jnp.array([[[False, True, True]]]), tokens + 1, jnp.arange(3)[None, None])
        >>> loss = sft(Outputs(logprobs=jnp.array([[[-9.0, -1.0, -3.0]]])), batch)
        >>> numerator, denominator = loss.reduction(loss.values, loss.mask)
        >>> print(numerator / denominator)
        2.0

    Source: Ouyang et al. 2022, section 3.5 (arXiv:2203.02155).
    """
    return Loss(-required(outputs.logprobs, "outputs.logprobs"), batch.mask, losses.token_mean)
