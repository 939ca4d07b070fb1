"""Attention: which tokens see which is given as structure (segments, a window, lengths), never as a dense mask.

Two calls: ``attention`` over whole rows, for training and prompts, and ``cached_attention`` of one new token a row over
keys and values that were kept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array


def softcap(z: Array, cap: float) -> Array:
    """Cap z smoothly, ``cap tanh(z / cap)``; a cap of 0 leaves z as it is (Gemma 2, section 2)."""
    return cap * jnp.tanh(z / cap) if cap else z


def attention(
    q: Array, k: Array, v: Array, segment_ids: Array, *, scale: float, window: int = 0, cap: float = 0.0
) -> Array:
    """Grouped-query attention of whole rows: a token sees those of its own segment, up to itself.

    ``softmax(softcap(scale q k^T)) v``

    Args:
        q: [B, S, H, Dh].
        k: [B, S, Hkv, Dh]; H is a multiple of Hkv.
        v: [B, S, Hkv, Dh].
        segment_ids: int32 [B, S]; 0 is padding. The tokens of a segment stand side by side.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: ``softcap``'s; 0: none.

    Returns:
        [B, S, H, Dh], in the type of ``v``. A query that sees nothing (padding) gets a finite average, which no mask
        ever counts.
    """
    batch, length, heads, width = q.shape
    # Heads before tokens: then the products are matrix products, and nothing is transposed inside them.
    grouped = q.reshape(batch, length, k.shape[2], -1, width).transpose(0, 2, 3, 1, 4)
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    logits = jnp.einsum("bngtd,bncd->bngtc", grouped, keys, preferred_element_type=jnp.float32) * scale
    seen = visible(segment_ids, segment_ids, window)[:, None, None]
    logits = jnp.where(seen, softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bngtc,bncd->bngtd", weights, values)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def visible(queries: Array, keys: Array, window: int = 0, first: int | Array = 0) -> Array:
    """Say which keys a query sees: bool ``[B, T, C]``, those of its own segment, up to itself and within the window.

    Args:
        queries: int32 [B, T], the segments of the queries.
        keys: int32 [B, C], the segments of the keys; 0 is padding, which none sees.
        window: how many tokens a token sees, itself included; 0: all.
        first: the column of the first query among the keys.
    """
    behind = (first + jnp.arange(queries.shape[1]))[:, None] - jnp.arange(keys.shape[1])[None]
    near = (behind >= 0) & (behind < window) if window else behind >= 0
    return near[None] & (queries[:, :, None] == keys[:, None, :]) & (keys[:, None, :] > 0)


def cached_attention(
    q: Array, k: Array, v: Array, lengths: Array, *, scale: float, window: int = 0, cap: float = 0.0
) -> Array:
    """Grouped-query attention of one token a row over the first columns of a cache.

    Args:
        q: [N, H, Dh], of the newest token of each row.
        k: [N, Hkv, C, Dh], heads before columns: so the products read the cache as it lies.
        v: [N, Hkv, C, Dh].
        lengths: int32 [N], how many columns of a row hold a token, the newest included.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: ``softcap``'s; 0: none.

    Returns:
        [N, H, Dh], in the type of ``v``.
    """
    grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
    logits = jnp.einsum("bngd,bncd->bngc", grouped, k, preferred_element_type=jnp.float32) * scale
    column = jnp.arange(k.shape[2])[None]
    seen = column < lengths[:, None]
    if window:
        seen &= column >= lengths[:, None] - window
    logits = jnp.where(seen[:, None, None], softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bngc,bncd->bngd", weights, v).reshape(q.shape)
