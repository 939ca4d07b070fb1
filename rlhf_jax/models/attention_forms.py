"""Attention by ordinary operations: the plain form, and the same for some queries at a time.

What lies above the diagonal of a part of the queries is not computed, where it is not on the part's own diagonal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array

# Queries of a chunk.
CHUNK = 512
# A row is cut into at most so many parts, each of which is written out in the program, of at least so many queries.
PARTS = 4
LEAST = 64

Masked = Callable[[Array, Array, Array, Array], Array]


def softcap(z: Array, cap: float) -> Array:
    """Cap z smoothly, ``cap tanh(z / cap)``; a cap of 0 leaves z as it is (Gemma 2, section 2)."""
    return cap * jnp.tanh(z / cap) if cap else z


def plain(q: Array, k: Array, v: Array, seen: Array, *, scale: float, cap: float) -> Array:
    """Attend with queries [B, T, H, Dh] over keys and values [B, C, Hkv, Dh]; ``seen`` is bool [B, T, C]."""
    batch, length, heads, width = q.shape
    # Heads before tokens: then the products are matrix products, and nothing is transposed inside them.
    grouped = q.reshape(batch, length, k.shape[2], -1, width).transpose(0, 2, 3, 1, 4)
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    logits = jnp.einsum("bngtd,bncd->bngtc", grouped, keys, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(seen[:, None, None], softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # Divided once mixed there is less to divide, and the backward pass keeps one array of all pairs less.
    mixed = jnp.einsum("bngtc,bncd->bngtd", weights.astype(v.dtype), values)
    mixed = (mixed / jnp.sum(weights, axis=-1, keepdims=True)).astype(v.dtype)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def in_parts(masked: Masked, q: Array, k: Array, v: Array, segments: Array, window: int) -> Array:
    """Attend by ``masked(q, k, v, seen)`` with a part of the queries at a time, over the keys that it may see."""

    def part(first: int, last: int) -> Array:
        start = max(0, first + 1 - window) if window else 0
        seen = visible(segments[:, first:last], segments[:, start:last], window, first - start)
        return masked(q[:, first:last], k[:, start:last], v[:, start:last], seen)

    length = segments.shape[1]
    return jnp.concatenate([part(*ends) for ends in _parts(length, min(PARTS, length // LEAST))], axis=1)


def in_chunks(masked: Masked, q: Array, k: Array, v: Array, segments: Array, window: int) -> Array:
    """Attend by ``masked(q, k, v, seen)`` with ``CHUNK`` queries at a time, in parts, or over what a window reaches."""
    batch, length = segments.shape
    behind = -length % CHUNK
    before = -(-window // 8) * 8  # a kernel does not take an odd number of keys
    near = 0 < before < length - CHUNK

    def padded(x: Array, front: int) -> Array:
        return jnp.pad(x, ((0, 0), (front, behind), *((0, 0),) * (x.ndim - 2)))

    def cut(x: Array) -> Array:
        return padded(x, 0).reshape(batch, -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)

    held = [padded(x, before if near else 0) for x in (k, v, segments)]
    cuts = (cut(q), cut(segments), jnp.arange(0, length, CHUNK))

    def part(begin: int, end: int) -> Array:
        def one(inputs: tuple[Array, Array, Array]) -> Array:
            queries, own, first = inputs
            if near:
                # With so many columns of padding in front, what a chunk can see begins at its own number.
                keys, values, theirs = (jax.lax.dynamic_slice_in_dim(x, first, before + CHUNK, 1) for x in held)
            else:
                keys, values, theirs = (x[:, : end * CHUNK] for x in held)
            return masked(queries, keys, values, visible(own, theirs, window, before if near else first))

        # Kept for the backward pass, the scores of all chunks would be the whole square again.
        recomputed: Callable[[tuple[Array, Array, Array]], Array] = jax.checkpoint(one)
        return jax.lax.map(recomputed, tuple(x[begin:end] for x in cuts))

    parts = _parts(len(cuts[0]), 1 if near else PARTS)
    mixed = jnp.concatenate([part(*ends) for ends in parts])
    return mixed.swapaxes(0, 1).reshape(batch, -1, *q.shape[2:])[:, :length]


def _parts(count: int, parts: int) -> list[tuple[int, int]]:
    """Cut ``range(count)`` into so many parts of nearly one size, but at most ``count``: where each begins and ends."""
    parts = max(1, min(parts, count))
    return list(itertools.pairwise(count * i // parts for i in range(parts + 1)))


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


def held_columns(columns: int, lengths: Array, window: int = 0) -> Array:
    """Say which columns of a cache the newest token of a row sees: bool [N, columns].

    Args:
        columns: how many there are.
        lengths: int32 [N], how many of a row's hold a token, the newest included.
        window: how many tokens a token sees, itself included; 0: all.
    """
    column = jnp.arange(columns)[None]
    seen = column < lengths[:, None]
    return seen & (column >= lengths[:, None] - window) if window else seen
