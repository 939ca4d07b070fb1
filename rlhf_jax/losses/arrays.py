"""What every loss does with its inputs first: one precision, one shape, hyperparameters that make sense."""

from __future__ import annotations

import math

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


def check_range(
    name: str,
    value: ArrayLike,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    """Refuse a hyperparameter outside its range.

    Only plain numbers are looked at: a traced value (an annealed clip range, say) is not known yet.

    Raises:
        ValueError: naming the parameter, what was found and what is allowed.

    Example:
        >>> check_range("clip", -0.2, above=0)
        Traceback (most recent call last):
        ...
        ValueError: clip must be above 0, found -0.2
    """
    if not isinstance(value, (int, float)):
        return
    if value > above and at_least <= value <= at_most:
        return
    limits = [(above, "above"), (at_least, "at least"), (at_most, "at most")]
    allowed = " and ".join(f"{word} {limit:g}" for limit, word in limits if math.isfinite(limit))
    raise ValueError(f"{name} must be {allowed or 'a number'}, found {value:g}")
