"""The output matrix as a pass over tokens needs it: whole in its width, in the compute type, once for all chunks."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import VOCABULARY, constrained, vocabulary_shares, weights_are_shared
from rlhf_jax.models.attention_forms import softcap
from rlhf_jax.models.output_head import OutputHead, Ranges, masked
from rlhf_jax.types import Array

# Devices that share the matrix gather it in so many parts: what a gather takes beside its result is then a part's.
PARTS = 8


class GatheredHead(NamedTuple):
    """An output head whose matrix is whole on every device but for the tensor axis, in parts of the vocabulary."""

    parts: tuple[OutputHead, ...]
    cap: float
    tokenless: Ranges = ()

    def logits(self, hidden: Array) -> Array:
        """Turn ``hidden [..., D]`` into float32 ``[..., V]``."""
        return masked(softcap(self.times(hidden), self.cap), self.tokenless)

    def times(self, hidden: Array) -> Array:
        """Multiply ``hidden [..., D]`` by the matrix alone: float32 ``[..., V]``."""
        made = [part.times(hidden) for part in self.parts]
        return made[0] if len(made) == 1 else jnp.concatenate(made, axis=-1)

    def back(self, gradient: Array) -> Array:
        """Multiply the gradient of ``times``, [..., V], by the matrix the other way: float32 ``[..., D]``."""
        ends = list(itertools.accumulate(part.vocab_size for part in self.parts))
        cuts = jnp.split(gradient, ends[:-1], axis=-1)
        first, *rest = (part.back(cut) for part, cut in zip(self.parts, cuts, strict=True))
        return sum(rest, start=first)


def gathered(head: OutputHead, hidden: Array) -> GatheredHead:
    """Bring the matrix into the compute type and gather its width, once and not in every chunk.

    Args:
        head: the output head as it is stored.
        hidden: [..., D], for its type.
    """
    matrix, size, axis = head.matrix.astype(hidden.dtype), head.vocab_size, 0 if head.tied else 1
    axes = (VOCABULARY, None) if head.tied else (None, VOCABULARY)
    parts = 1
    if weights_are_shared():
        # Each device's part alone changes its type: without the barrier compilers may gather first, in twice the bytes.
        matrix = jax.lax.optimization_barrier(matrix)
        parts = PARTS if vocabulary_shares(size) == 1 else 1
    cuts = jnp.array_split(matrix, parts, axis=axis) if parts > 1 else [matrix]
    held = tuple(OutputHead(constrained(cut, *axes), head.tied) for cut in cuts)
    return GatheredHead(held, head.cap, head.tokenless)
