"""Matrices that read the same input, laid side by side as one, as a GPU wants them in decoding.

A product for a few rows costs a GPU hardly more than reading the matrix, so that one wide product is quicker than
several narrow ones. XLA knows that and joins them itself, but their matrices lie apart: its own kernel, which reads
them where they are, took 41 microseconds for an MLP's two on an H200, where one matrix of that size takes 26.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.types import Params

# By the part of a block: the joined matrix, and what stands in it from left to right.
JOINED = {"attention": ("qkv", ("query", "key", "value")), "mlp": ("gate_up", ("gate", "up"))}


def join_matrices(blocks: Params) -> Params:
    """Lay the matrices of blocks side by side where they read the same input, and so their biases.

    Args:
        blocks: those of a model, stacked, or a single one; without adapters or matrices in 8 bits.

    Returns:
        The blocks with ``qkv`` in place of ``query``, ``key`` and ``value``, and ``gate_up`` in place of ``gate`` and
        ``up``; an MLP without a gate stays as it is.

    Example:
        >>> halves = {name: {"kernel": jnp.full((2, 3), i)} for i, name in enumerate(("gate", "up"))}
        >>> heads = {name: {"kernel": jnp.ones((2, 4))} for name in ("query", "key", "value")}
        >>> joined = join_matrices({"attention": heads, "mlp": halves})
        >>> joined["attention"]["qkv"]["kernel"].shape, joined["mlp"]["gate_up"]["kernel"][0].tolist()
        ((2, 12), [0, 0, 0, 1, 1, 1])
    """

    def join(part: Params, name: str, own: tuple[str, ...]) -> Params:
        if not all(each in part for each in own):
            return part
        wide = {leaf: jnp.concatenate([part[each][leaf] for each in own], axis=-1) for leaf in part[own[0]]}
        return {**{other: x for other, x in part.items() if other not in own}, name: wide}

    return {**blocks, **{part: join(blocks[part], *named) for part, named in JOINED.items()}}


def is_joined(blocks: Params) -> bool:
    """Say whether blocks by number, as decoding has them, were joined."""
    return JOINED["attention"][0] in blocks[0]["attention"]
