"""Attention: which tokens see which is given as structure (segments, a window, lengths), never as a dense mask.

Two calls: ``attention`` over whole rows, for training and prompts, and ``cached_attention`` of one new token a row over
keys and values that were kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import platform
from rlhf_jax.types import Array

Kind = Literal["auto", "xla", "chunked", "cudnn"]

# Above this many tokens a row, scores of all pairs are never held at once.
WHOLE = 2048
# Queries of a chunk.
CHUNK = 512


def softcap(z: Array, cap: float) -> Array:
    """Cap z smoothly, ``cap tanh(z / cap)``; a cap of 0 leaves z as it is (Gemma 2, section 2)."""
    return cap * jnp.tanh(z / cap) if cap else z


def chosen(
    asked: Kind = "auto", *, platform: str, dtype: Any, length: int, head_dim: int, cap: float = 0.0
) -> Literal["xla", "chunked", "cudnn"]:
    """Choose how attention over whole rows is computed.

    ``xla`` is the plain form. ``chunked`` computes it for ``CHUNK`` queries at a time, and again in the backward pass,
    so that scores of all pairs never exist. ``cudnn`` is NVIDIA's fused kernel, in chunks too where rows are long.

    Args:
        asked: ``ModelConfig.attention``; ``auto`` leaves the choice to this function.
        platform: what it runs on: cpu, gpu or tpu.
        dtype: type of queries, keys and values.
        length: tokens of a row.
        head_dim: width of a head.
        cap: ``softcap``'s; 0: none.

    Returns:
        What is used.

    Raises:
        ValueError: what was asked for cannot serve; the message says why.

    Example:
        >>> chosen(platform="gpu", dtype="bfloat16", length=1024, head_dim=64)
        'cudnn'
        >>> chosen(platform="gpu", dtype="bfloat16", length=4096, head_dim=64, cap=50.0)
        'chunked'
        >>> chosen(platform="cpu", dtype="float32", length=256, head_dim=64)
        'xla'
    """
    lacks = [
        (platform != "gpu", f"needs a GPU, found {platform}"),
        (jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16), f"needs 16-bit types, found {jnp.dtype(dtype)}"),
        (head_dim % 8 != 0 or head_dim > 128, f"needs a head_dim of 8, 16, ... 128, found {head_dim}"),
        (length % 2 != 0, f"needs rows of even length, found {length}"),
        (cap != 0, f"has no softcap, found {cap}"),
    ]
    reasons = [reason for missing, reason in lacks if missing]
    if asked == "cudnn" and reasons:
        raise ValueError(f"attention='cudnn' {', and '.join(reasons)}: use 'auto'")
    if asked != "auto":
        return asked
    if not reasons:
        return "cudnn"
    return "chunked" if length > WHOLE else "xla"


def attention(
    q: Array,
    k: Array,
    v: Array,
    segment_ids: Array,
    *,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    kind: Kind = "auto",
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
        kind: how it is computed, see ``chosen``.

    Returns:
        [B, S, H, Dh], in the type of ``v``. A query that sees nothing (padding) gets a finite average, which no mask
        ever counts.

    Raises:
        ValueError: ``kind`` cannot serve; the message says why.
    """
    length = q.shape[1]
    used = chosen(kind, platform=platform(), dtype=q.dtype, length=length, head_dim=q.shape[-1], cap=cap)

    def masked(q: Array, k: Array, v: Array, seen: Array) -> Array:
        if used == "cudnn":
            return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], scale=scale, implementation="cudnn")
        return _plain(q, k, v, seen, scale, cap)

    # In the fused kernel padding sees padding, so that no row of the mask is empty.
    segments = segment_ids + 1 if used == "cudnn" else segment_ids
    if used == "chunked" or (used == "cudnn" and length > WHOLE):
        return _in_chunks(masked, q, k, v, segments, window)
    return masked(q, k, v, visible(segments, segments, window))


def _plain(q: Array, k: Array, v: Array, seen: Array, scale: float, cap: float) -> Array:
    batch, length, heads, width = q.shape
    # Heads before tokens: then the products are matrix products, and nothing is transposed inside them.
    grouped = q.reshape(batch, length, k.shape[2], -1, width).transpose(0, 2, 3, 1, 4)
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    logits = jnp.einsum("bngtd,bncd->bngtc", grouped, keys, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(seen[:, None, None], softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("bngtc,bncd->bngtd", weights, values)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _in_chunks(
    masked: Callable[[Array, Array, Array, Array], Array], q: Array, k: Array, v: Array, segments: Array, window: int
) -> Array:
    """Attend with ``CHUNK`` queries at a time, over all keys or those that a window reaches."""
    batch, length = segments.shape
    behind = -length % CHUNK
    near = bool(window) and window + CHUNK < length
    before = window if near else 0

    def padded(x: Array, front: int) -> Array:
        return jnp.pad(x, ((0, 0), (front, behind), *((0, 0),) * (x.ndim - 2)))

    def cut(x: Array) -> Array:
        return padded(x, 0).reshape(batch, -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)

    held = [padded(x, before) for x in (k, v, segments)]

    def one(inputs: tuple[Array, Array, Array]) -> Array:
        queries, own, first = inputs
        keys, values, theirs = held
        if near:
            # With ``window`` columns of padding in front, what a chunk can see begins at its own number.
            keys, values, theirs = (jax.lax.dynamic_slice_in_dim(x, first, window + CHUNK, 1) for x in held)
        return masked(queries, keys, values, visible(own, theirs, window, window if near else first))

    starts = jnp.arange(0, length, CHUNK)
    # Kept for the backward pass, the scores of all chunks would be the whole square again.
    recomputed: Callable[[tuple[Array, Array, Array]], Array] = jax.checkpoint(one)
    mixed = jax.lax.map(recomputed, (cut(q), cut(segments), starts))
    return mixed.swapaxes(0, 1).reshape(batch, -1, *q.shape[2:])[:, :length]


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
