"""The gradient of hidden states and output matrix, from the slope of a loss by a chunk's logits at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import (
    ROWS,
    VOCABULARY,
    WIDTH,
    constrained,
    platform,
    vocabulary_shares,
    width_shares,
)
from rlhf_jax.models.gathered_head import GatheredHead, gathered
from rlhf_jax.models.logit_chunks import Chunks, Order, hidden_chunk, in_place, put_chunk, run_chunks
from rlhf_jax.models.output_head import OutputHead, masked
from rlhf_jax.types import Array

# Devices that share the matrix sum its gradient in parts of at most so many bytes.
PART_BYTES = 2**26

Slope = Callable[[Array, "Array | int"], Array]


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["hidden", "matrix"])
@dataclasses.dataclass(frozen=True)
class Needed:
    """Which inputs have a gradient that somebody asks for: a frozen matrix, for example, has none."""

    hidden: bool
    matrix: bool


def primals(tree: Any) -> Any:
    """Take the values out of what ``jax.custom_vjp(symbolic_zeros=True)`` hands to the forward rule."""
    return jax.tree.map(lambda x: x.value, tree, is_leaf=lambda x: hasattr(x, "perturbed"))


def by_product(slope: Array, capped: Array, head: OutputHead | GatheredHead, temperature: float) -> Array:
    """Turn a slope by ``z = cap tanh(x / cap) / temperature`` into the slope by x, given the capped logits."""
    if temperature != 1.0:
        slope = slope / temperature
    if head.cap:
        inside = masked(capped, head.tokenless, 0.0)  # the slope is 0 there, and is to stay so
        slope = slope * (1 - jnp.square(inside / head.cap))
    return jnp.broadcast_to(slope, capped.shape)


def output_gradient(
    chunks: Chunks, order: Order, hidden: Array, head: OutputHead, needed: Needed, slope_of: Slope
) -> tuple[Array | None, OutputHead | None]:
    """Sum over all chunks what reaches the hidden states and the matrix.

    Every line of tokens has a sum of its own for the matrix, so that devices add theirs up once, after the last chunk.

    Args:
        chunks: sizes.
        order: which tokens each chunk takes.
        hidden: [G, N, D].
        head: the output head.
        needed: which of the two gradients are wanted.
        slope_of: ``(states [G * C, D], turn) -> [G * C, V]``, the loss's derivative by ``head.times(states)``.

    Returns:
        The gradients, None where nobody asks for one.
    """
    whole, width, size = gathered(head, hidden), hidden.shape[-1], head.vocab_size
    parts = gradient_parts(chunks, width, size, hidden.dtype.itemsize) if needed.matrix else 1
    # On a CPU the product that gives [V, D] would first copy all the logits the other way round.
    turned = head.tied and platform() == "cpu"
    wide = turned or not head.tied  # summed as [D, V]
    for_hidden = jnp.zeros((*order.source.shape, width), hidden.dtype) if needed.hidden else None
    for_matrix = None
    if needed.matrix and parts == 1:
        axes = (None, VOCABULARY) if wide else (VOCABULARY, None)
        shape = (chunks.lines, width, size) if wide else (chunks.lines, size, width)
        for_matrix = constrained(jnp.zeros(shape, jnp.float32), ROWS, *axes)
    elif needed.matrix:
        shape = jax.eval_shape(lambda: _cut(jnp.zeros((chunks.lines * chunks.size, size), hidden.dtype), parts))
        for_matrix = jnp.zeros((parts, chunks.count, *shape.shape[1:]), hidden.dtype)

    def body(turn: Array | int, carried: Any) -> Any:
        for_hidden, for_matrix = carried
        states = hidden_chunk(chunks, order, hidden, turn)
        slope = slope_of(states, turn).astype(hidden.dtype)
        if needed.hidden:
            for_hidden = put_chunk(chunks, for_hidden, whole.back(slope).astype(hidden.dtype), turn)
        if needed.matrix and parts == 1:
            pair = (states, slope) if wide else (slope, states)
            for_matrix = for_matrix + _outer(chunks, *pair)
        elif needed.matrix:
            for_matrix = jax.lax.dynamic_update_index_in_dim(for_matrix, _cut(slope, parts), turn, 1)
        return for_hidden, for_matrix

    for_hidden, for_matrix = run_chunks(chunks, order, body, (for_hidden, for_matrix))
    if needed.hidden:
        for_hidden = in_place(order, for_hidden)
    if not needed.matrix:
        return for_hidden, None
    if parts > 1:
        total = _in_parts(chunks, order, hidden, for_matrix, size)
        total = total.T if head.tied else total
    else:
        total = jnp.sum(for_matrix, axis=0)
        if turned:
            total = jax.lax.optimization_barrier(total).T  # without the barrier XLA turns the product round again
    # To where the matrix lies, so that no device receives the whole sum.
    total = constrained(total, *((VOCABULARY, WIDTH) if head.tied else (WIDTH, VOCABULARY)))
    return for_hidden, dataclasses.replace(head, matrix=total.astype(head.matrix.dtype))


def gradient_parts(chunks: Chunks, width: int, size: int, itemsize: int) -> int:
    """Decide in how many parts of the vocabulary the matrix's gradient is summed: 1 for the whole at once.

    Devices that share the matrix keep a small part of its gradient, but the sum over a device's own tokens is as large
    as the whole matrix in float32. Where the slopes of its tokens are much smaller, these are kept in its place, and
    the sum is made and handed over a part at a time.

    Args:
        chunks: sizes.
        width: D.
        size: V.
        itemsize: bytes of a number of the compute type.
    """
    columns = size // vocabulary_shares(size)
    slopes, sums = itemsize * chunks.count * chunks.size, 4 * width  # bytes, for a word of the vocabulary
    if width_shares(width) == 1 or 2 * slopes > sums:
        return 1
    return -(-4 * width * columns // PART_BYTES)


def _cut(slope: Array, parts: int) -> Array:
    """Cut the vocabulary of slopes [N, V] into parts, [P, N, C], of which every device has its share.

    Every device's columns are filled up with zeros to a multiple of P.
    """
    count, size = slope.shape
    shares = vocabulary_shares(size)
    columns = size // shares
    filled = jnp.pad(slope.reshape(count, shares, columns), ((0, 0), (0, 0), (0, -columns % parts)))
    return filled.reshape(count, shares, parts, -1).transpose(2, 0, 1, 3).reshape(parts, count, -1)


def _in_parts(chunks: Chunks, order: Order, hidden: Array, slopes: Array, size: int) -> Array:
    """Sum the matrix's gradient, float32 [D, V], from slopes [P, chunks, G * C, ...], a part after another."""
    parts, columns, width, shares = slopes.shape[0], slopes.shape[-1], hidden.shape[-1], vocabulary_shares(size)

    def one(slopes: Array) -> Array:
        def body(turn: Array | int, summed: Array) -> Array:
            return summed + _outer(chunks, hidden_chunk(chunks, order, hidden, turn), slopes[turn])

        empty = constrained(jnp.zeros((chunks.lines, width, columns), jnp.float32), ROWS, None, VOCABULARY)
        return constrained(jnp.sum(run_chunks(chunks, order, body, empty), axis=0), WIDTH, VOCABULARY)

    found = jax.lax.map(one, slopes).reshape(parts, width, shares, -1).transpose(1, 2, 0, 3)
    return found.reshape(width, shares, -1)[:, :, : size // shares].reshape(width, size)


def _outer(chunks: Chunks, a: Array, b: Array) -> Array:
    """Sum the outer products of a line's tokens: [G * C, I] and [G * C, J] -> float32 [G, I, J]."""
    a, b = (x.reshape(chunks.lines, chunks.size, -1) for x in (a, b))
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
