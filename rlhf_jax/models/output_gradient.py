"""The gradient of hidden states and output matrix, from the slope of a loss by a chunk's logits at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import ROWS, VOCABULARY, WIDTH, constrained, platform
from rlhf_jax.models.logit_chunks import Chunks, Order, hidden_chunk, in_place, put_chunk, run_chunks
from rlhf_jax.models.output_head import OutputHead
from rlhf_jax.types import Array

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


def gathered(head: OutputHead, hidden: Array) -> OutputHead:
    """Bring the matrix into the compute type and gather its width, once and not in every chunk."""
    axes = (VOCABULARY, None) if head.tied else (None, VOCABULARY)
    return dataclasses.replace(head, matrix=constrained(head.matrix.astype(hidden.dtype), *axes))


def by_product(slope: Array, capped: Array, cap: float, temperature: float) -> Array:
    """Turn a slope by ``z = cap tanh(x / cap) / temperature`` into the slope by x, given the capped logits."""
    if temperature != 1.0:
        slope = slope / temperature
    if cap:
        slope = slope * (1 - jnp.square(capped / cap))
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
    # On a CPU the product that gives [V, D] would first copy all the logits the other way round.
    turned = head.tied and platform() == "cpu"
    wide = turned or not head.tied  # summed as [D, V]
    axes = (None, VOCABULARY) if wide else (VOCABULARY, None)
    sums = jnp.zeros((chunks.lines, width, size) if wide else (chunks.lines, size, width), jnp.float32)
    start = (
        jnp.zeros((*order.source.shape, width), hidden.dtype) if needed.hidden else None,
        constrained(sums, ROWS, *axes) if needed.matrix else None,
    )

    def body(turn: Array | int, carried: Any) -> Any:
        for_hidden, for_matrix = carried
        states = hidden_chunk(chunks, order, hidden, turn)
        slope = slope_of(states, turn).astype(hidden.dtype)
        if needed.hidden:
            for_hidden = put_chunk(chunks, for_hidden, whole.back(slope).astype(hidden.dtype), turn)
        if needed.matrix:
            pair = (states, slope) if wide else (slope, states)
            for_matrix = for_matrix + _outer(chunks, *pair)
        return for_hidden, for_matrix

    for_hidden, for_matrix = run_chunks(chunks, order, body, start)
    if needed.hidden:
        for_hidden = in_place(order, for_hidden)
    if not needed.matrix:
        return for_hidden, None
    total = jnp.sum(for_matrix, axis=0)
    if turned:
        total = jax.lax.optimization_barrier(total).T  # without the barrier XLA turns the product round again
    # To where the matrix lies, so that no device receives the whole sum.
    total = constrained(total, *((VOCABULARY, WIDTH) if head.tied else (WIDTH, VOCABULARY)))
    return for_hidden, dataclasses.replace(head, matrix=total.astype(head.matrix.dtype))


def _outer(chunks: Chunks, a: Array, b: Array) -> Array:
    """Sum the outer products of a line's tokens: [G * C, I] and [G * C, J] -> float32 [G, I, J]."""
    a, b = (x.reshape(chunks.lines, chunks.size, -1) for x in (a, b))
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
