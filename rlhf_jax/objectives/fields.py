"""Reading what a batch or the models' outputs may or may not carry."""

from __future__ import annotations

from rlhf_jax.types import Array


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
