"""What every loss does with its arrays first: one precision, masks as booleans."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def as_float(x: ArrayLike) -> Array:
    """Return ``x`` as float32: losses never compute in the precision of the weights.

    Whatever is narrower (bfloat16, float16, integers, booleans) is widened. float64 exists only where the caller has
    switched it on (``jax.enable_x64``) and is then kept, which is what makes finite differences sharp.

    Example:
        >>> as_float(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_mask(mask: ArrayLike) -> Array:
    """Return ``mask`` as booleans: True, or any number but 0, is an entry that counts.

    Example:
        >>> as_mask([1.0, 0.0]).tolist()
        [True, False]
    """
    return jnp.asarray(mask).astype(bool)
