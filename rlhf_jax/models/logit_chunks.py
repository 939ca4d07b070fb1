"""How logits are made a chunk at a time, and only for the tokens that are wanted.

The tokens of a device's rows form one line; ``[G, N]`` are the lines of G devices. The wanted ones are moved to the
front of their line, so that a loop may end when the last line has none left.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import ROWS, constrained, platform, row_shares, vocabulary_shares, weights_are_shared
from rlhf_jax.types import Array, MaybeArray

# A chunk's logits take at most so many bytes on each device, in float32. More of them at once need fewer passes over
# the gradient of the output matrix, which is as large as the matrix; on a CPU memory is scarce before that counts.
LOGIT_BYTES = {"cpu": 2**27, "gpu": 2**29, "tpu": 2**29}
# Devices that share the matrix take a quarter of it: they share for want of memory, and the matrix's gradient is then
# summed outside of the loop (``output_gradient``).
SHARED = 4
# So many bytes of logits are kept for the backward pass; where there are more they are made again.
KEPT_BYTES = {"cpu": 2**28, "gpu": 2**29, "tpu": 2**29}
# A chunk is not smaller than this many tokens, unless its bytes ask for it.
LEAST_TOKENS = {"cpu": 512, "gpu": 1024, "tpu": 1024}
# The last chunk of a line is half empty on average: a sixteenth of the work, where there are eight.
MOST_CHUNKS = 8


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Sizes of the loop: static, decided when the program is traced.

    Args:
        lines: G, how many devices share the rows.
        tokens: N, tokens of a line.
        size: C, tokens of a line in a chunk.
        keep: whether the logits of all chunks are few enough to be kept for the backward pass.
    """

    lines: int
    tokens: int
    size: int
    keep: bool

    @property
    def count(self) -> int:
        """How many chunks there are when all tokens are wanted."""
        return -(-self.tokens // self.size)


def plan_chunks(rows: int, length: int, vocab_size: int) -> Chunks:
    """Decide on the sizes by the bytes that a device holds, under the mesh that the program is traced for.

    Args:
        rows: B, of the whole batch.
        length: S, tokens of a row.
        vocab_size: V.

    Returns:
        The sizes.

    Example:
        >>> plan_chunks(8, 1024, 128_256).count * plan_chunks(8, 1024, 128_256).size >= 8 * 1024
        True
    """
    where = platform() if platform() in LOGIT_BYTES else "gpu"
    lines = row_shares(rows)
    tokens = rows // lines * length
    token_bytes = 4 * (vocab_size // vocabulary_shares(vocab_size))
    room = LOGIT_BYTES[where] // (SHARED if weights_are_shared() else 1)
    size = min(max(LEAST_TOKENS[where], -(-tokens // MOST_CHUNKS)), max(1, room // token_bytes))
    if size >= tokens:
        size = tokens
    else:  # chunks of equal size; matrix products like multiples of 8
        size = -(-tokens // -(-tokens // size))
        size = -(-size // 8) * 8 if size > 8 else size
    chunks = Chunks(lines, tokens, size, False)
    return dataclasses.replace(chunks, keep=chunks.count * size * token_bytes <= KEPT_BYTES[where])


class Order(NamedTuple):
    """Which tokens each chunk takes, and where each token's results are to be found."""

    source: Array  # int32 [G, count * C]; which token of the line stands here
    valid: Array  # bool [G, count * C]; whether a wanted token stands here
    rank: Array  # int32 [G, N]; where each wanted token stands
    wanted: Array  # bool [G, N]
    turns: Array | int  # int32 []; chunks with a wanted token in any line


def order_tokens(chunks: Chunks, mask: MaybeArray) -> Order:
    """Move the wanted tokens of each line to its front, in their order.

    Args:
        chunks: from ``plan_chunks``.
        mask: bool [G, N], which tokens are wanted; None for all.

    Returns:
        The order, for ``chunks.count`` chunks. A single chunk takes all tokens where they stand.
    """
    shape = (chunks.lines, chunks.tokens)
    here = jnp.broadcast_to(jnp.arange(chunks.tokens, dtype=jnp.int32), shape)
    wanted = jnp.ones(shape, bool) if mask is None else mask
    turns: Array | int = chunks.count
    source, rank, valid = here, here, wanted
    if mask is not None and chunks.count > 1:
        source = jnp.argsort(~wanted, axis=-1, stable=True).astype(jnp.int32)
        total = jnp.cumsum(wanted, axis=-1, dtype=jnp.int32)
        rank = jnp.maximum(total - 1, 0)
        valid = here < total[:, -1:]
        turns = -(-jnp.max(total[:, -1]) // chunks.size)
    room = ((0, 0), (0, chunks.count * chunks.size - chunks.tokens))
    return Order(jnp.pad(source, room), jnp.pad(valid, room), rank, wanted, turns)


def in_order(order: Order, x: Array) -> Array:
    """Bring numbers of the tokens [G, N] into the chunks' order, [G, count * C]; 0 where no wanted token stands."""
    return jnp.where(order.valid, jnp.take_along_axis(x, order.source, axis=1), jnp.zeros((), x.dtype))


def in_place(order: Order, x: Array) -> Array:
    """Bring what the chunks made, [G, count * C, ...], back to where the tokens stand: [G, N, ...], 0 elsewhere."""
    trailing = (1,) * (x.ndim - 2)
    found = jnp.take_along_axis(x, order.rank.reshape(*order.rank.shape, *trailing), axis=1)
    return jnp.where(order.wanted.reshape(*order.wanted.shape, *trailing), found, jnp.zeros((), x.dtype))


def chunk_of(chunks: Chunks, x: Array, turn: Array | int) -> Array:
    """Cut a chunk out of what is in the chunks' order: [G, count * C] -> [G * C]."""
    return _cut(chunks, x, turn).reshape(-1)


def put_chunk(chunks: Chunks, x: Array, part: Array, turn: Array | int) -> Array:
    """Write a chunk, [G * C, ...], into what is in the chunks' order, [G, count * C, ...]."""
    part = part.reshape(chunks.lines, chunks.size, *part.shape[1:])
    return part if chunks.count == 1 else jax.lax.dynamic_update_slice_in_dim(x, part, turn * chunks.size, axis=1)


def hidden_chunk(chunks: Chunks, order: Order, hidden: Array, turn: Array | int) -> Array:
    """Take the hidden states of a chunk's tokens out of [G, N, D]: [G * C, D], 0 where no wanted token stands.

    A state that nobody wants may hold anything; as 0 it cannot spoil a sum that it has weight 0 in.
    """
    source, valid = (_cut(chunks, x, turn)[..., None] for x in (order.source, order.valid))
    found = hidden if chunks.count == 1 else jnp.take_along_axis(hidden, source, axis=1)
    # Tokens of all lines in one axis: on a CPU, sums over the last of three axes are twenty times slower.
    return jnp.where(valid, found, jnp.zeros((), hidden.dtype)).reshape(-1, hidden.shape[-1])


def _cut(chunks: Chunks, x: Array, turn: Array | int) -> Array:
    return x if chunks.count == 1 else jax.lax.dynamic_slice_in_dim(x, turn * chunks.size, chunks.size, axis=1)


def run_chunks(chunks: Chunks, order: Order, body: Any, start: Any) -> Any:
    """Run ``body(turn, carried) -> carried`` for every chunk that holds a wanted token."""
    return body(0, start) if chunks.count == 1 else jax.lax.fori_loop(0, order.turns, body, start)


def as_lines(chunks: Chunks, x: Array) -> Array:
    """Lay rows [B, S, ...] into lines [G, N, ...], each on the device that has the rows."""
    laid = x.reshape(chunks.lines, chunks.tokens, *x.shape[2:])
    return constrained(laid, ROWS, *(None,) * (laid.ndim - 1)) if chunks.lines > 1 else laid
