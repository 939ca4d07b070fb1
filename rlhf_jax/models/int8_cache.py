"""A key-value cache in 8 bits: about a quarter of float32's memory, half of bfloat16's.

Every column of a head has a scale of its own, ``x ~ scale * round(x / scale)`` with ``scale = max |x| / 127``. The
scales are left out of the products: those of keys multiply the scores, those of values the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models.attention import Decoding, stored
from rlhf_jax.models.attention_forms import held_columns, softcap
from rlhf_jax.models.int8 import round_to_int8
from rlhf_jax.types import Array, Cache


class Int8Columns(NamedTuple):
    """Keys or values of a layer."""

    whole: Array  # int8 [N, Hkv, C, Dh]
    scale: Array  # float32 [N, Hkv, C]


def compress(x: Array) -> Int8Columns:
    """Round ``x [..., Dh]`` to 8 bits.

    Example:
        >>> held = compress(jnp.array([[[[1.0, -2.0, 0.5]]]]))
        >>> held.whole.tolist(), round(float(held.scale[0, 0, 0]), 4)
        ([[[[64, -127, 32]]]], 0.0157)
    """
    return Int8Columns(*round_to_int8(x, axis=-1))


def compress_cache(cache: Cache, kind: Decoding = "xla") -> Cache:
    """Round a whole cache, as prompts have filled it, to 8 bits.

    Args:
        cache: in the compute type.
        kind: which layout it has, ``decoding_kind``'s.

    Returns:
        The same columns as ``Int8Columns``.
    """

    def layer(x: Array) -> Int8Columns:
        return compress(x.swapaxes(1, 2) if kind == "cudnn" else x)

    return cache._replace(k=tuple(map(layer, cache.k)), v=tuple(map(layer, cache.v)))


def append(held: Int8Columns, new: Array, lengths: Array) -> Int8Columns:
    """Write ``new [N, Hkv, Dh]`` behind each row's last column; a row that is full stays as it is."""
    return Int8Columns(*(stored(leaf, more, lengths, "xla") for leaf, more in zip(held, compress(new), strict=True)))


def int8_attention(
    q: Array, k: Int8Columns, v: Int8Columns, lengths: Array, *, scale: float, window: int = 0, cap: float = 0.0
) -> Array:
    """Compute what ``attention.cached_attention`` does, over a cache in 8 bits.

    Args:
        q: [N, H, Dh], of the newest token of each row.
        k: keys, with H a multiple of Hkv.
        v: values.
        lengths: int32 [N], how many columns of a row hold a token, the newest included.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: ``softcap``'s; 0: none.

    Returns:
        [N, H, Dh], in the type of ``q``.
    """
    grouped = q.reshape(q.shape[0], k.whole.shape[1], -1, q.shape[-1])
    scores = jnp.einsum("bngd,bncd->bngc", grouped, k.whole.astype(q.dtype), preferred_element_type=jnp.float32)
    scores = scores * k.scale[:, :, None] * scale
    seen = held_columns(scores.shape[-1], lengths, window)
    scores = jnp.where(seen[:, None, None], softcap(scores, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1) * v.scale[:, :, None]
    return jnp.einsum("bngc,bncd->bngd", weights.astype(q.dtype), v.whole.astype(q.dtype)).reshape(q.shape)
