"""How blocks of one shape are run one after another: unrolled, or in a scan over turns of a few blocks.

Unrolled is faster, because nothing is copied into and out of stacked arrays at every layer, but the compiler's time
grows with the depth, so a deep model is scanned in turns. And a compiler is free to compute early what unrolled blocks
compute again, and so to hold it for all of them at once; where memory is what counts, turns are as short as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array

# A model of at most this many blocks is one turn.
UNROLLED = 16
# Blocks of a turn where there are more.
TURN = 8

Block = Callable[[Array, Any, Array | None, bool], Array]


def turn_length(windowed: Sequence[bool], *, lean: bool = False) -> int:
    """Say how many blocks make a turn, so that every turn has its windows at the same places.

    Args:
        windowed: whether a block sees a sliding window only, one entry a block.
        lean: whether memory counts more than time.

    Returns:
        All of them where there are few, or where the windows follow no pattern; else at most ``TURN``. If ``lean``, as
        few as the pattern allows.

    Example:
        >>> turn_length((False,) * 30), turn_length((True, True, True, True, True, False) * 4 + (True, True))
        (8, 6)
        >>> turn_length((False,) * 30, lean=True), turn_length((True, False) * 5, lean=True)
        (1, 2)
    """
    count = len(windowed)
    if count <= UNROLLED and not lean:
        return count
    for length in range(1, TURN + 1) if lean else range(TURN, 0, -1):
        scanned = windowed[: count - count % length]
        if scanned and all(flag == windowed[i % length] for i, flag in enumerate(scanned)):
            return length
    return count


def run_blocks(
    block: Block, windowed: Sequence[bool], x: Array, stacked: Any, keys: Array | None, *, lean: bool = False
) -> Array:
    """Run all blocks over a stream.

    Args:
        block: ``(x, params, key, windowed) -> x``, one block; the flag is known when it is traced.
        windowed: whether a block sees a sliding window only, one entry a block.
        x: the stream, [B, S, D].
        stacked: the blocks' parameters, leaves [layers or more, ...]; only the first ``len(windowed)`` are run.
        keys: one for each block, or None.
        lean: whether memory counts more than time.

    Returns:
        The stream after the last block.
    """
    count, length = len(windowed), turn_length(windowed, lean=lean)

    def turn(x: Array, stacked: Any, keys: Array | None, flags: Sequence[bool]) -> Array:
        for i, (params, flag) in enumerate(zip(unstack(stacked, len(flags)), flags, strict=True)):
            x = block(x, params, None if keys is None else keys[i], flag)
        return x

    turns, scanned = count // length, count - count % length
    stacked = jax.tree.map(lambda leaf: leaf[:count], stacked)
    if turns == 1:
        return turn(x, stacked, keys, windowed)

    if length == 1:  # without an axis more, which would cost a copy of every leaf
        return jax.lax.scan(lambda x, each: (block(x, *each, windowed[0]), None), x, (stacked, keys))[0]

    def of_turns(leaf: Array) -> Array:
        return leaf[:scanned].reshape(turns, length, *leaf.shape[1:])

    def body(x: Array, inputs: tuple[Any, Array | None]) -> tuple[Array, None]:
        return turn(x, inputs[0], inputs[1], windowed[:length]), None

    x, _ = jax.lax.scan(body, x, jax.tree.map(of_turns, (stacked, keys)))
    left, left_keys = jax.tree.map(lambda leaf: leaf[scanned:], (stacked, keys))
    return turn(x, left, left_keys, windowed[scanned:])


def unstack(tree: Any, count: int) -> list[Any]:
    """Take ``count`` trees off a tree whose leaves are stacked; the gradient puts them together in one piece."""

    def split(leaf: Array) -> list[Array]:
        # The gradient of ``split`` is one concatenation, where that of ``count`` slices is a sum of as many arrays.
        return [jnp.squeeze(part, 0) for part in jax.lax.split(leaf, (1,) * count)]

    leaves, form = jax.tree.flatten(tree)
    return [jax.tree.unflatten(form, own) for own in zip(*map(split, leaves), strict=True)]
