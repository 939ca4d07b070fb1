"""Lay sequences of any lengths into blocks of one fixed shape, as many of them as the tokens need.

How long a sampled response gets is known only once it is there, but a compiled program wants to know shapes before. So
the shape of a block is fixed by what the *longest* responses could need, and the lengths only decide how many blocks
hold anything; the rest stand at the end, empty, and are never run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BlockShape(NamedTuple):
    """Sizes that are compiled in: they follow from the largest lengths, never from the ones at hand."""

    blocks: int  # A, at most so many hold anything
    rows: int  # r, rows of a block
    row_length: int  # L, tokens of a row
    groups: int  # G, groups of a block at most

    @property
    def size(self) -> int:
        """Tokens that a block has room for."""
        return self.rows * self.row_length


class BlockPlan(NamedTuple):
    """Where every group of a batch went; arrays of numpy."""

    groups: np.ndarray  # int32 [A, G], which group of the batch; -1 where there is none
    starts: np.ndarray  # int32 [A, G, K], where each sequence starts in its block, counted row after row
    used: np.ndarray  # int32 [], blocks that hold anything


def block_shape(
    groups: int, responses: int, length: int, *, tokens: int, row_tokens: int, devices: int = 1, parts: int = 1
) -> BlockShape:
    """Choose the shape of blocks that hold ``groups`` groups of sequences of at most ``length`` tokens.

    Args:
        groups: groups of the batch.
        responses: K, sequences of a group; all of them lie in one block, so that an objective sees the whole group.
        length: S, the longest that a sequence may be.
        tokens: a device has about this many tokens of a block, where the batch has that many: enough to keep it busy.
        row_tokens: a row has about this many, and room for one sequence at least. Longer rows leave less padding, and
            attention costs more.
        devices: rows are a multiple of them, so that they can be spread.
        parts: a block is never larger than this part of the batch with all sequences at their longest, rounded up to
            whole groups and rows.

    Returns:
        A shape whose blocks always suffice.

    Example:
        >>> block_shape(8, 1, 96, tokens=384, row_tokens=192)  # two blocks where every sequence has 96 tokens
        BlockShape(blocks=2, rows=2, row_length=192, groups=8)
    """
    share = -(-groups // parts)
    in_row = max(1, min(row_tokens // length, share * responses // devices))
    needed = -(-share * responses // in_row)
    # Two groups at least, where there are two: beside one alone, the room that it leaves would serve no other.
    wanted = max(tokens * devices // (in_row * length), -(-min(share, 2) * responses // in_row))
    rows = -(-needed // -(-needed // min(wanted, needed)))
    rows = -(-max(rows, -(-responses // in_row)) // devices) * devices
    # However long its sequences are, a block takes this many groups: a row with fewer than in_row sequences has room
    # for one more.
    whole = rows * in_row // responses
    return BlockShape(-(-groups // whole), rows, in_row * length, min(groups, 8 * whole))


def lay_out(lengths: np.ndarray, shape: BlockShape) -> BlockPlan:
    """Lay groups into blocks, those with most tokens first, each into the first block that has room for it.

    Args:
        lengths: int [B, K], tokens of every sequence; 0 takes no room.
        shape: from ``block_shape`` for so many groups, of sequences of at most that length.

    Returns:
        The plan, a function of the arguments alone.

    Raises:
        ValueError: if the groups do not fit, which the shape of another batch may cause.

    Example:
        >>> plan = lay_out(np.array([[3], [5], [4]]), BlockShape(blocks=2, rows=1, row_length=8, groups=3))
        >>> plan.groups.tolist(), plan.starts[..., 0].tolist(), int(plan.used)
        ([[1, 0, -1], [2, -1, -1]], [[0, 5, 0], [0, 0, 0]], 2)
    """
    lengths = np.asarray(lengths)
    groups = np.full((shape.blocks, shape.groups), -1, np.int32)
    starts = np.zeros((shape.blocks, shape.groups, lengths.shape[1]), np.int32)
    room = np.full((shape.blocks, shape.rows), shape.row_length, np.int64)
    held = np.zeros(shape.blocks, np.int64)
    for group in np.argsort(-lengths.sum(axis=1), kind="stable").tolist():
        own = lengths[group]
        # Blocks without a row for its longest sequence, or without room for all of it, need no closer look.
        may = (room.max(axis=1) >= own.max()) & (room.sum(axis=1) >= own.sum()) & (held < shape.groups)
        for block in np.flatnonzero(may).tolist():
            placed = _place(own, room[block], shape.row_length)
            if placed is not None:
                starts[block, held[block]], room[block] = placed
                groups[block, held[block]] = group
                held[block] += 1
                break
        else:
            raise ValueError(f"a group of {own.tolist()} tokens does not fit into what is left of {shape}")
    return BlockPlan(groups, starts, np.asarray(np.count_nonzero(held), np.int32))


def _place(lengths: np.ndarray, room: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Place a group's sequences, longest first, each in the first row with room.

    Returns:
        Where each starts and what room is left in each row, or None if a sequence finds none.
    """
    left, starts = room.copy(), np.zeros(len(lengths), np.int32)
    for index in np.argsort(-lengths, kind="stable").tolist():
        row = int(np.argmax(left >= lengths[index]))
        if left[row] < lengths[index]:
            return None
        starts[index] = (row + 1) * row_length - left[row]
        left[row] -= lengths[index]
    return starts, left
