"""How matrices and caches are rounded to 8 bits: ``x ~ scale * round(x / scale)``, ``scale = max |x| / 127``."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.types import Array


def round_to_int8(x: Array, axis: int) -> tuple[Array, Array]:
    """Round to 8 bits, with one scale for what lies along an axis.

    Args:
        x: any floating type.
        axis: which one; the scales do not have it.

    Returns:
        The int8 numbers, shaped as ``x``, and the float32 scales.

    Example:
        >>> whole, scale = round_to_int8(jnp.array([[1.0, -2.0, 0.5]]), axis=-1)
        >>> whole.tolist(), round(float(scale[0]), 4)
        ([[64, -127, 32]], 0.0157)
    """
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=axis) / 127, 1e-12)
    return jnp.round(x / jnp.expand_dims(scale, axis)).astype(jnp.int8), scale
