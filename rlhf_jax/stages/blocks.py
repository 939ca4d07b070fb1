"""Sampled responses as packed rows in blocks of one shape, and passes over them that hold one block at a time.

``data.blocks`` decides on the host, from lengths alone, where every response goes; here the rows are made on the
devices, which have the tokens already. A row holds real tokens only: neither the padding before prompts nor what the
shorter responses leave empty is ever computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from rlhf_jax import parallel, processes
from rlhf_jax.data.blocks import BlockShape, block_shape, lay_out
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.types import Array, Packing, Rollout, SequenceBatch

# Tokens of a device's share of a block, and of a row. The gradients of every block are added to a sum of the size of
# the parameters, which few tokens would not be worth; a processor is busy with far fewer than a GPU or a TPU. A pass
# without gradients keeps little of a block, but brings all weights to the compute type for each: on a GPU, where that
# was measured, it takes larger ones.
CPU_TOKENS, CPU_ROW = 384, 256
TOKENS, ROW = 4096, 1024
GPU_PASS_TOKENS = 16384


class Rows(NamedTuple):
    """The responses of a rollout in A blocks of r packed rows of L tokens; the first ``used`` blocks hold anything."""

    tokens: Array  # int32 [A, r, L]
    mask: Array  # bool [A, r, L]
    segment_ids: Array  # int32 [A, r, L]
    positions: Array  # int32 [A, r, L]
    places: Array  # int32 [B, K, S]; a flat index into A * r * L, 0 at padding
    real: Array  # bool [B, K, S]
    used: Array  # int32 []


def shape_of(
    mesh: Mesh | AbstractMesh, groups: int, responses: int, length: int, *, parts: int = 1, gradients: bool = True
) -> BlockShape:
    """Choose the shape of blocks on these devices.

    Args:
        mesh: the devices.
        groups: groups of sequences.
        responses: sequences of a group.
        length: tokens of the longest sequence.
        parts: as in ``data.blocks.block_shape``.
        gradients: whether the blocks are trained on, or only run.
    """
    platform = parallel.platform(mesh)
    tokens, row_tokens = (CPU_TOKENS, CPU_ROW) if platform == "cpu" else (TOKENS, ROW)
    if platform == "gpu" and not gradients:
        tokens = GPU_PASS_TOKENS
    devices = parallel.axis_size(mesh, parallel.BATCH)
    return block_shape(groups, responses, length, tokens=tokens, row_tokens=row_tokens, devices=devices, parts=parts)


def lengths_of(batch: Rollout | SequenceBatch) -> np.ndarray:
    """Count the real tokens of every sequence, int [B, K], on the host: this waits until they are sampled."""
    ids = batch.segment_ids
    if isinstance(ids, jax.Array) and not ids.is_fully_addressable:
        return processes.fetch(_lengths(ids))
    # No program: it would wait behind all that the devices have been given meanwhile.
    return np.sum(np.asarray(ids) > 0, axis=-1)


@jax.jit
def _lengths(segment_ids: Array) -> Array:
    return jnp.sum(segment_ids > 0, axis=-1)


def pack_rows(batch: SequenceBatch, starts: Array, rows: int, row_length: int) -> Packing:
    """Lay the real tokens of a batch into ``rows`` rows.

    Args:
        batch: [B, K, S], padded on either side.
        starts: int32 [B, K], where each sequence starts, counted row after row.
        rows: how many there are.
        row_length: tokens of each.

    Returns:
        What ``forward`` takes as ``batch.packing``.

    Example:
        >>> tokens = jnp.array([[[0, 7, 8]], [[5, 0, 0]]])
        >>> real = (tokens > 0).astype(jnp.int32)
        >>> batch = SequenceBatch(tokens, real > 0, real, jnp.array([[[0, 0, 1]], [[0, 0, 0]]]))
        >>> packing = pack_rows(batch, jnp.array([[0], [2]]), rows=1, row_length=4)
        >>> packing.tokens.tolist(), packing.segment_ids.tolist(), packing.positions.tolist()
        ([[7, 8, 5, 0]], [[1, 1, 2, 0]], [[0, 1, 0, 0]])
    """
    real, size, count = batch.segment_ids > 0, rows * row_length, batch.tokens.size
    places = jnp.where(real, starts[..., None] + jnp.cumsum(real, axis=-1) - 1, 0)
    # Which token of the batch stands at each place of the rows; where none does, the index is one too large.
    origin = (
        jnp.full(size, count).at[jnp.where(real, places, size)].set(jnp.arange(count).reshape(real.shape), mode="drop")
    )
    held = (origin < count).reshape(rows, row_length)

    def take(x: Array) -> Array:
        return jnp.where(held, x.reshape(-1)[jnp.minimum(origin, count - 1)].reshape(held.shape), 0)

    number = 1 + jnp.arange(count).reshape(real.shape) // real.shape[-1]
    return Packing(take(batch.tokens), take(number), take(batch.positions), places)


def pack_block(batch: SequenceBatch, groups: Array, starts: Array, shape: BlockShape, mesh: Mesh) -> SequenceBatch:
    """Take the groups of one block out of a batch, and pack them.

    Args:
        batch: [B, K, S].
        groups: int32 [G], indices of groups; -1 where there is none.
        starts: int32 [G, K], where each sequence starts in the block.
        shape: the block's.
        mesh: the devices over which its rows are spread.

    Returns:
        A packed batch [G, K, S]; a group that is not there is empty (mask False, segment 0, everything else 0).
    """
    there = groups >= 0

    def take(x: Array) -> Array:
        return jnp.where(there.reshape(-1, *(1,) * (x.ndim - 1)), x[jnp.maximum(groups, 0)], jnp.zeros((), x.dtype))

    own = jax.tree.map(take, batch._replace(packing=None))
    block = own._replace(packing=pack_rows(own, starts, shape.rows, shape.row_length))
    return jax.lax.with_sharding_constraint(block, parallel.batch_shardings(block, mesh))


class RowMaker:
    """Maker of the packed rows of rollouts on a mesh: ``make(sampled) -> Rows``; it holds the compiled programs."""

    def __init__(self, mesh: Mesh):
        self._mesh = mesh

        def lay(sampled: Rollout, starts: Array, used: Array, shape: BlockShape) -> Rows:
            batch = as_batch(sampled)
            packing = pack_rows(batch, starts, shape.blocks * shape.rows, shape.row_length)
            blocks = (shape.blocks, shape.rows, shape.row_length)
            counted = jnp.zeros(blocks, bool).reshape(-1)
            real = batch.segment_ids > 0
            counted = counted.at[jnp.where(real, packing.places, counted.size)].set(batch.mask, mode="drop")
            each = (packing.tokens, counted, packing.segment_ids, packing.positions)
            spread = jax.tree.map(lambda x: x.reshape(blocks), each)
            places = parallel.batch_shardings(spread, mesh, batch_axis=1)
            tokens, mask, segment_ids, positions = jax.lax.with_sharding_constraint(spread, places)
            return Rows(tokens, mask, segment_ids, positions, packing.places, real, used)

        self.program: Callable[..., Rows] = jax.jit(lay, static_argnames=("shape",))

    def __call__(self, sampled: Rollout) -> Rows:
        """Pack the responses of a rollout; the host waits for their lengths, and for nothing else."""
        lengths = lengths_of(sampled)
        shape = shape_of(self._mesh, lengths.size, 1, sampled.tokens.shape[-1], gradients=False)
        plan = lay_out(lengths.reshape(-1, 1), shape)
        block, slot = np.nonzero(plan.groups >= 0)
        starts = np.zeros(lengths.size, np.int32)
        starts[plan.groups[block, slot]] = plan.starts[block, slot, 0] + block * shape.size
        return self.program(sampled, starts.reshape(lengths.shape), plan.used, shape=shape)


def in_blocks(run: Callable[[SequenceBatch], Any], rows: Rows) -> Any:
    """Run a function on every block that holds anything, one after the other.

    Args:
        run: ``(rows) -> tree of [r, L, ...]``, given the packed rows of a block as a batch [r, 1, L]: one sequence a
            row, in which segment numbers keep the responses apart.
        rows: from ``RowMaker``.

    Returns:
        A tree of [A, r, L, ...], 0 in the blocks that hold nothing.
    """
    each = (rows.tokens, rows.mask, rows.segment_ids, rows.positions)
    blocks = SequenceBatch(*(x[:, :, None] for x in each))  # type: ignore[arg-type]
    most = rows.tokens.shape[0]

    def block(i: Array | int) -> Any:
        return run(jax.tree.map(lambda x: x[i], blocks))

    if most == 1:
        return jax.tree.map(lambda x: x[None], block(0))
    empty = jax.tree.map(lambda s: jnp.zeros((most, *s.shape), s.dtype), jax.eval_shape(lambda: block(0)))
    return jax.lax.fori_loop(
        0, rows.used, lambda i, found: jax.tree.map(lambda x, y: x.at[i].set(y), found, block(i)), empty
    )


def by_response(x: Array, rows: Rows) -> Array:
    """Bring what was found for every place, [A, r, L], back to [B, K, S]; 0 at padding."""
    return jnp.where(rows.real, x.reshape(-1)[rows.places], 0.0)


def at_last(x: Array, rows: Rows) -> Array:
    """Take what was found at the last token of every response, [A, r, L, ...] -> [B, K, ...]."""
    length = rows.real.shape[-1]
    last = length - 1 - jnp.argmax(rows.real[..., ::-1], axis=-1)
    place = jnp.take_along_axis(rows.places, last[..., None], axis=-1)[..., 0]
    return x.reshape(-1, *x.shape[3:])[place]
