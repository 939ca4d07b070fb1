"""Reading what a batch or the models' outputs may or may not carry."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.types import Array, SequenceBatch


def required(value: Array | None, name: str) -> Array:
    """Return an optional field that the objective cannot do without.

    Args:
        value: the field's value.
        name: what to call it in the error, like "batch.votes".

    Raises:
        ValueError: if the field is None.

    Example:
        >>> required(None, "batch.votes")
        Traceback (most recent call last):
        ...
        ValueError: batch.votes is None, but the objective reads it; fill it in before the update
    """
    if value is None:
        raise ValueError(f"{name} is None, but the objective reads it; fill it in before the update")
    return value


def learned(value: Array | None, name: str, mask: Array) -> Array:
    """A field the gradient flows into, 0 behind the mask."""
    return losses.masked_fill(required(value, name), mask)


def fixed(value: Array | None, name: str, mask: Array) -> Array:
    """A field that was computed before, 0 behind the mask: no gradient flows into it."""
    return jax.lax.stop_gradient(learned(value, name, mask))


def kl_weight(batch: SequenceBatch, kl_coef: float) -> Array | float:
    """The weight of the KL in the loss: a controller's, [B, K, 1], where the batch carries one, else ``kl_coef``."""
    return kl_coef if batch.kl_coef is None else jax.lax.stop_gradient(batch.kl_coef)[..., None]


def importance_weights(batch: SequenceBatch, pool: Callable[..., Array] | None = None) -> Array | None:
    """What the samples of an older policy weigh in the policy's loss; None where the policy itself sampled.

    ``w = min(exp(log pi_old - log pi_behaviour), cap)``, a token, or a response where ``pool`` makes one log-ratio of
    its tokens

    Args:
        batch: ``behaviour_logprobs`` [B, K, S] where an older policy sampled, and then ``old_logprobs`` [B, K, S],
            ``mask`` [B, K, S] and ``importance_cap`` [B, K].
        pool: ``losses.masked_sum`` or ``losses.masked_mean``, as the objective makes one action of a response.

    Returns:
        [B, K, S], or [B, K] with a ``pool``; 1 behind the mask. Constants.

    Raises:
        ValueError: if the batch has some of these fields and not the others.
    """
    if batch.behaviour_logprobs is None:
        return None
    cap = required(batch.importance_cap, "batch.importance_cap")
    old = fixed(batch.old_logprobs, "batch.old_logprobs", batch.mask)
    behaviour = fixed(batch.behaviour_logprobs, "batch.behaviour_logprobs", batch.mask)
    if pool is None:
        return losses.truncated_importance_weights(old, behaviour, cap=cap[..., None])
    # The difference is pooled, not the terms: a sum of a thousand log-probabilities leaves few digits for it.
    log_ratio = pool(old - behaviour, batch.mask, axis=-1)
    return losses.truncated_importance_weights(log_ratio, jnp.zeros_like(log_ratio), cap=cap)


def weighted(policy_loss: Array, batch: SequenceBatch, pool: Callable[..., Array] | None = None) -> Array:
    """The policy's loss with the weights of ``importance_weights``, or as it is where there are none.

    Args:
        policy_loss: [B, K, S], or [B, K] with a ``pool``.
        batch: as ``importance_weights`` takes it.
        pool: likewise.
    """
    weights = importance_weights(batch, pool)
    return policy_loss if weights is None else weights * policy_loss
