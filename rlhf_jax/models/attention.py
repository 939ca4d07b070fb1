"""Attention: which tokens see which is given as structure (segments, a window, lengths), never as a dense mask.

Two calls: ``attention`` over whole rows, for training and prompts, and ``cached_attention`` of one new token a row over
keys and values that were kept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array

# Rows up to this length have their products at once, [B, H, S, S]; longer ones a chunk of queries at a time.
WHOLE = 2048
# Queries of a chunk.
CHUNK = 512


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
    if length <= WHOLE:
        mixed = _mix(grouped, keys, values, visible(segment_ids, segment_ids, window), scale, cap)
    else:
        mixed = _in_chunks(grouped, keys, values, segment_ids, scale, window, cap)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _mix(q: Array, k: Array, v: Array, seen: Array, scale: float, cap: float) -> Array:
    """Mix the values of ``v [B, N, C, Dh]`` for queries ``[B, N, G, T, Dh]`` that see ``seen [B, T, C]``."""
    logits = jnp.einsum("bngtd,bncd->bngtc", q, k, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(seen[:, None, None], softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bngtc,bncd->bngtd", weights, v)


def _in_chunks(q: Array, k: Array, v: Array, segment_ids: Array, scale: float, window: int, cap: float) -> Array:
    """Do what ``_mix`` does, a chunk of queries at a time, forward and backward, over no more keys than they may see."""
    length = q.shape[3]
    pad = -length % CHUNK
    q = jnp.pad(q, ((0, 0), (0, 0), (0, 0), (0, pad), (0, 0)))
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, pad), (0, 0))) for x in (k, v))
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)))
    span = min(length + pad, window - 1 + CHUNK) if window else length + pad

    def one(first: Array) -> Array:
        start = jnp.clip(first - (window - 1), 0, length + pad - span) if window else jnp.int32(0)
        queries = jax.lax.dynamic_slice_in_dim(q, first, CHUNK, axis=3)
        keys, values = (jax.lax.dynamic_slice_in_dim(x, start, span, axis=2) for x in (k, v))
        seen = visible(
            jax.lax.dynamic_slice_in_dim(segment_ids, first, CHUNK, axis=1),
            jax.lax.dynamic_slice_in_dim(segment_ids, start, span, axis=1),
            window,
            first - start,
        )
        return _mix(queries, keys, values, seen, scale, cap)

    # A chunk is computed again in the backward pass: its products are all that would be kept.
    mixed = jax.lax.map(jax.checkpoint(one), jnp.arange(0, length + pad, CHUNK, dtype=jnp.int32))
    return jnp.moveaxis(mixed, 0, 3).reshape(*q.shape[:3], length + pad, q.shape[-1])[..., :length, :]


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
