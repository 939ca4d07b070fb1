"""Attention of whole rows by jax's splash kernel, for TPUs: scores stay on the chip, unseen blocks are left out.

``models.attention`` imports this file where it chooses the kernel, since Pallas takes a while to load.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    LocalMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)

from rlhf_jax.types import Array

# Queries and keys of a block; the largest that divides the row is taken.
BLOCKS = (512, 256, 128)


def splash_attention(
    q: Array, k: Array, v: Array, segment_ids: Array, *, scale: float, window: int, cap: float, interpret: bool = False
) -> Array:
    """Grouped-query attention of whole rows on one device; every group of heads reads its keys as they are.

    Args:
        q: [B, S, H, Dh]; rows are filled up to a multiple of 128 tokens.
        k: [B, S, Hkv, Dh]; H is a multiple of Hkv.
        v: [B, S, Hkv, Dh].
        segment_ids: int32 [B, S]; a token sees its own segment, up to itself. In padding, 0, it does as well, so that
            none sees nothing.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: logits become ``cap tanh(z / cap)``; 0: they stay.
        interpret: compute as on a TPU, but with ordinary operations, on any device.

    Returns:
        [B, S, H, Dh], in the type of ``q``.
    """
    real, heads = q.shape[1:3]
    length = real + -real % BLOCKS[-1]
    mask = LocalMask((length, length), (window - 1, 0), 0) if window else CausalMask((length, length))
    kernel = make_splash_mha(
        MultiHeadMask([mask] * heads),
        block_sizes=_blocks(length),
        attn_logits_soft_cap=cap or None,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def row(q: Array, k: Array, v: Array, own: Array) -> Array:
        return kernel(q, k, v, SegmentIds(own, own))

    def filled(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, length - real), *((0, 0),) * (x.ndim - 2)))

    queries, keys, values = (filled(x).swapaxes(1, 2) for x in (q * scale, k, v))
    mixed = jax.vmap(row)(queries, keys, values, filled(segment_ids))
    return mixed.swapaxes(1, 2)[:, :real]


def _blocks(length: int) -> BlockSizes:
    size = next(size for size in BLOCKS if length % size == 0)
    return BlockSizes(
        block_q=size, block_kv=size, block_q_dkv=size, block_kv_dkv=size, block_q_dq=size, block_kv_dq=size
    )
