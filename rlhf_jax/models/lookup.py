"""Looking up rows of an embedding table whose width the devices share."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.models.ambient import by_rows, by_width, constrained, row_shares
from rlhf_jax.types import Array


def look_up(table: Array, ids: Array, dtype: str) -> Array:
    """Take rows of a table, each device's own ones whole.

    The table's width lies over ``fsdp``, and so do the rows of the batch. Devices that share the width therefore look
    up their part of it for the rows of all of them, and then exchange parts for rows: as many numbers as a device holds
    in the end. To gather the table first would cost a copy of it on every device, and its whole gradient in the
    backward pass; left to itself the compiler makes every row on every device and cuts.

    Args:
        table: [V, D], of any type.
        ids: int [B, T].
        dtype: what is returned.

    Returns:
        [B, T, D].
    """
    if row_shares(ids.shape[0]) == 1:  # one device, or rows that the devices cannot share
        return jnp.take(table, ids, axis=0).astype(dtype)
    found = jnp.take(table, constrained(ids, "data", None), axis=0).astype(dtype)
    return by_rows(by_width(found))
