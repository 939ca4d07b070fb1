"""Log-probability and entropy of given tokens, from hidden states, without ever holding all logits.

The gradient is written out: ``softmax - onehot`` of a chunk at a time, from logits that are kept where there is room
and made again where there is not. A frozen matrix, hidden states without a gradient and an entropy that no loss reads
cost nothing.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rlhf_jax.models.gathered_head import gathered
from rlhf_jax.models.logit_chunks import (
    Chunks,
    Order,
    as_lines,
    chunk_of,
    hidden_chunk,
    in_order,
    in_place,
    order_tokens,
    plan_chunks,
    put_chunk,
    run_chunks,
)
from rlhf_jax.models.output_gradient import Needed, by_product, output_gradient, primals
from rlhf_jax.models.output_head import OutputHead
from rlhf_jax.types import Array, MaybeArray


def token_stats(
    hidden: Array, head: OutputHead, targets: Array, *, temperature: float = 1.0, mask: MaybeArray = None
) -> tuple[Array, Array]:
    """Log-probability of each target and entropy of its distribution, both of ``softmax(logits / temperature)``.

    ``log p(y) = z_y - log sum_v exp z_v``, ``H = -sum_v p_v log p_v`` with ``z = logits / temperature``

    Args:
        hidden: [B, S, D], the state that predicts each target, in the model's compute type.
        head: the model's output head.
        targets: int32 [B, S].
        temperature: above 0; at 1 the logits are taken as they are.
        mask: bool [B, S], which targets are wanted; None for all. The others cost next to nothing, and what stands at
            them is never read.

    Returns:
        Two float32 [B, S], nats; 0 where a target is not wanted. Gradients flow into ``hidden`` and ``head``.

    Example:
        >>> head = OutputHead(jnp.array([[0.0, 0.0], [jnp.log(3.0), 0.0]]), tied=True)
        >>> logprobs, entropy = token_stats(jnp.array([[[1.0, 5.0], [0.0, 5.0]]]), head, jnp.array([[1, 0]]))
        >>> print(jnp.exp(logprobs), f"{entropy[0, 1]:.4f}")  # 3 to 1, and even: log 2
        [[0.75 0.5 ]] 0.6931
    """
    rows, length = targets.shape
    chunks = plan_chunks(rows, length, head.vocab_size)
    laid, goals = as_lines(chunks, hidden), as_lines(chunks, targets)
    wanted = None if mask is None else as_lines(chunks, mask)
    logprobs, entropy = _stats(_How(chunks, temperature), laid, head, goals, wanted)
    return logprobs.reshape(rows, length), entropy.reshape(rows, length)


@dataclasses.dataclass(frozen=True)
class _How:
    """What is decided when the program is traced."""

    chunks: Chunks
    temperature: float

    def tempered(self, logits: Array) -> Array:
        return logits if self.temperature == 1.0 else logits / self.temperature


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(how: _How, hidden: Array, head: OutputHead, targets: Array, mask: MaybeArray) -> tuple[Array, Array]:
    return _forward(how, hidden, head, order_tokens(how.chunks, mask), targets, keep=False)[0]


def _forward(
    how: _How, hidden: Array, head: OutputHead, order: Order, targets: Array, *, keep: bool
) -> tuple[tuple[Array, Array], tuple[Array, Array, MaybeArray]]:
    """Run all chunks: both results [G, N]; and in the chunks' order log Z, the entropy and maybe the capped logits."""
    chunks, whole = how.chunks, gathered(head, hidden)
    goals = in_order(order, targets)
    empty = jnp.zeros(order.source.shape, jnp.float32)
    kept = jnp.zeros((chunks.count, chunks.lines * chunks.size, head.vocab_size), jnp.float32) if keep else None

    def body(turn: Array | int, carried: Any) -> Any:
        logprobs, log_zs, entropies, kept = carried
        capped = whole.logits(hidden_chunk(chunks, order, hidden, turn))
        z = how.tempered(capped)
        log_z = jax.nn.logsumexp(z, axis=-1)
        picked = jnp.take_along_axis(z, chunk_of(chunks, goals, turn)[:, None], axis=-1)[:, 0]
        every = z - log_z[:, None]
        if kept is not None:
            kept = capped[None] if chunks.count == 1 else jax.lax.dynamic_update_index_in_dim(kept, capped, turn, 0)
        return (
            put_chunk(chunks, logprobs, picked - log_z, turn),
            put_chunk(chunks, log_zs, log_z, turn),
            put_chunk(chunks, entropies, -jnp.sum(jnp.exp(every) * every, axis=-1), turn),
            kept,
        )

    logprobs, log_zs, entropies, kept = run_chunks(chunks, order, body, (empty, empty, empty, kept))
    return (in_place(order, logprobs), in_place(order, entropies)), (log_zs, entropies, kept)


def _stats_forward(how: _How, hidden: Any, head: Any, targets: Any, mask: Any) -> tuple[tuple[Array, Array], Any]:
    needed = Needed(hidden.perturbed, head.matrix.perturbed)
    hidden, head, targets, mask = primals((hidden, head, targets, mask))
    order = order_tokens(how.chunks, mask)
    out, kept = _forward(how, hidden, head, order, targets, keep=how.chunks.keep)
    return out, (needed, hidden, head, targets, order, kept)


def _stats_backward(how: _How, saved: Any, gradients: Any) -> tuple[Any, ...]:
    """Differentiate: ``d log p_y / dz = onehot - p``, ``dH / dz = -p (log p + H)``, then temperature and cap."""
    needed, hidden, head, targets, order, (log_zs, entropies, kept) = saved
    chunks, whole = how.chunks, gathered(head, hidden)
    goals = in_order(order, targets)
    for_logprobs, for_entropy = (None if isinstance(g, SymbolicZero) else in_order(order, g) for g in gradients)

    def slope_of(states: Array, turn: Array | int) -> Array:
        def column(x: Array) -> Array:
            return chunk_of(chunks, x, turn)[:, None]

        capped = whole.logits(states) if kept is None else kept[turn]
        every = how.tempered(capped) - column(log_zs)
        slope: Array = jnp.zeros((), jnp.float32)
        if for_logprobs is not None:
            onehot = column(goals) == jax.lax.broadcasted_iota(goals.dtype, every.shape, 1)
            slope = column(for_logprobs) * (onehot - jnp.exp(every))
        if for_entropy is not None:
            slope = slope - column(for_entropy) * jnp.exp(every) * (every + column(entropies))
        return by_product(slope, capped, whole, how.temperature)

    return *output_gradient(chunks, order, hidden, head, needed, slope_of), None, None


_stats.defvjp(_stats_forward, _stats_backward, symbolic_zeros=True)
