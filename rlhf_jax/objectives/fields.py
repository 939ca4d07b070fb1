"""Reading what a batch or the models' outputs may or may not carry."""

from __future__ import annotations

import jax

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
