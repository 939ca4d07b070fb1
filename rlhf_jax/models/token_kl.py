"""The exact KL over the vocabulary between a student and a frozen teacher, without ever holding all logits."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

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

Under = Literal["student", "teacher"]


def token_kl(
    hidden: Array,
    head: OutputHead,
    teacher_hidden: Array,
    teacher_head: OutputHead,
    *,
    under: Under = "student",
    temperature: float = 1.0,
    mask: MaybeArray = None,
) -> Array:
    """Exact KL between student and teacher at each token, for distillation; the teacher gets no gradient.

    ``KL(student || teacher) = sum_v p_v (log p_v - log q_v)``, or with ``under="teacher"``
    ``KL(teacher || student) = sum_v q_v (log q_v - log p_v)``, for p of the student and q of the teacher

    The two may differ in width, but not in vocabulary. Where the tokens are the student's own samples, the mean of
    either over tokens is a loss of on-policy distillation.

    Args:
        hidden: [B, S, D], the student's states.
        head: the student's output head (``output_head``).
        teacher_hidden: [B, S, D'], the teacher's states of the same tokens.
        teacher_head: the teacher's output head.
        under: whose distribution the mean is taken under. The student's makes it avoid what the teacher would not say;
            the teacher's makes it cover all that the teacher says.
        temperature: above 0; both are ``softmax(logits / temperature)``.
        mask: bool [B, S], which tokens are wanted; None for all. The others cost next to nothing.

    Returns:
        float32 [B, S], nats; 0 where a token is not wanted.

    Raises:
        ValueError: if the vocabularies differ in size, or ``under`` is neither of the two.

    Example:
        >>> even, odds = (OutputHead(jnp.log(jnp.array([[1.0], [odd]])), tied=True) for odd in (1.0, 3.0))
        >>> state = jnp.ones((1, 1, 1))
        >>> print(f"{token_kl(state, even, state, odds)[0, 0]:.4f}")  # log(4 / 3) / 2
        0.1438

    Source: Agarwal et al. 2024, "On-Policy Distillation of Language Models" (arXiv:2306.13649).
    """
    if head.vocab_size != teacher_head.vocab_size:
        raise ValueError(
            f"student and teacher need one vocabulary, found {head.vocab_size} and {teacher_head.vocab_size} tokens"
        )
    if under not in ("student", "teacher"):
        raise ValueError(f"under must be student or teacher, found {under!r}")
    if head.tokenless != teacher_head.tokenless:  # what one of them never says has no probability under either
        never = tuple(sorted({*head.tokenless, *teacher_head.tokenless}))
        head, teacher_head = (dataclasses.replace(x, tokenless=never) for x in (head, teacher_head))
    rows, length = hidden.shape[:2]
    chunks = plan_chunks(rows, length, head.vocab_size)
    teacher = jax.lax.stop_gradient((as_lines(chunks, teacher_hidden), teacher_head))
    wanted = None if mask is None else as_lines(chunks, mask)
    kl = _kl(_How(chunks, under, temperature), as_lines(chunks, hidden), head, teacher, wanted)
    return kl.reshape(rows, length)


@dataclasses.dataclass(frozen=True)
class _How:
    """What is decided when the program is traced."""

    chunks: Chunks
    under: Under
    temperature: float


Teacher = tuple[Array, OutputHead]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kl(how: _How, hidden: Array, head: OutputHead, teacher: Teacher, mask: MaybeArray) -> Array:
    return in_place(order := order_tokens(how.chunks, mask), _forward(how, hidden, head, teacher, order))


def _forward(how: _How, hidden: Array, head: OutputHead, teacher: Teacher, order: Order) -> Array:
    """Run all chunks: the KL in the chunks' order."""
    chunks, logprobs_of = how.chunks, _logprobs(how, hidden, head, teacher, order)

    def body(turn: Array | int, kls: Array) -> Array:
        states = hidden_chunk(chunks, order, hidden, turn)
        student, other, _ = logprobs_of(states, turn)
        over, to = (student, other) if how.under == "student" else (other, student)
        return put_chunk(chunks, kls, jnp.sum(jnp.exp(over) * (over - to), axis=-1), turn)

    return run_chunks(chunks, order, body, jnp.zeros(order.source.shape, jnp.float32))


def _logprobs(how: _How, hidden: Array, head: OutputHead, teacher: Teacher, order: Order) -> Any:
    """Make a function of a chunk's states: log-probabilities of student and teacher, and the student's logits."""
    own, other = gathered(head, hidden), gathered(teacher[1], teacher[0])

    def logprobs_of(states: Array, turn: Array | int) -> tuple[Array, Array, Array]:
        capped = own.logits(states)
        taught = other.logits(hidden_chunk(how.chunks, order, teacher[0], turn))
        student, target = (jax.nn.log_softmax(x / how.temperature, axis=-1) for x in (capped, taught))
        return student, target, capped

    return logprobs_of


def _kl_forward(how: _How, hidden: Any, head: Any, teacher: Any, mask: Any) -> tuple[Array, Any]:
    needed = Needed(hidden.perturbed, head.matrix.perturbed)
    hidden, head, teacher, mask = primals((hidden, head, teacher, mask))
    order = order_tokens(how.chunks, mask)
    kls = _forward(how, hidden, head, teacher, order)
    return in_place(order, kls), (needed, hidden, head, teacher, order, kls)


def _kl_backward(how: _How, saved: Any, gradient: Any) -> tuple[Any, ...]:
    """Differentiate by the student's logits: ``p (log p - log q - KL)`` under the student, else ``p - q``."""
    needed, hidden, head, teacher, order, kls = saved
    chunks, logprobs_of = how.chunks, _logprobs(how, hidden, head, teacher, order)
    scale = in_order(order, gradient)

    def slope_of(states: Array, turn: Array | int) -> Array:
        student, target, capped = logprobs_of(states, turn)
        p = jnp.exp(student)
        if how.under == "student":
            slope = p * (student - target - chunk_of(chunks, kls, turn)[:, None])
        else:
            slope = p - jnp.exp(target)
        return by_product(chunk_of(chunks, scale, turn)[:, None] * slope, capped, head, how.temperature)

    return *output_gradient(chunks, order, hidden, head, needed, slope_of), None, None


_kl.defvjp(_kl_forward, _kl_backward, symbolic_zeros=True)
