"""Sums and means over the entries that count, and the reductions an objective can declare. Nothing else may reduce.

``mask`` is True (or 1) where an entry counts. What lies behind the mask is replaced *before* any arithmetic: in
``x * mask`` an inf behind the mask becomes NaN, and ``sum(where=mask)`` repairs the value but not the gradient of what
came before. Here an inf or NaN behind the mask changes neither.

A reduction maps ``(values, mask)`` to ``(numerator, denominator)`` and leaves the division to the framework, which adds
up both over micro-batches and devices first; so the loss of a batch does not depend on how it was cut up. A
denominator of 0 says that the numerator is the loss already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.checks import check_range

Axis = int | Sequence[int] | None
Reduction = Callable[[Array, Array], tuple[Array, Array]]


def masked_fill(x: ArrayLike, mask: ArrayLike) -> Array:
    """Put 0 wherever the mask is False, in float32.

    Args:
        x: [...].
        mask: [...], the same shape.

    Returns:
        [...], float32.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(masked_fill(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
        [1. 0.]
    """
    x, mask = as_float(x), as_mask(mask)
    chex.assert_equal_shape([x, mask])  # [...]
    return jnp.where(mask, x, 0)


def masked_sum(x: ArrayLike, mask: ArrayLike, axis: Axis = None) -> Array:
    """Sum the entries that count.

    ``sum_t mask_t x_t``

    Args:
        x: [...].
        mask: [...], the same shape.
        axis: the axes to sum over; None is all of them.

    Returns:
        float32, without the summed axes; 0 where nothing counts.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> float(masked_sum(jnp.array([1.0, 2.0, jnp.inf]), jnp.array([True, True, False])))
        3.0
    """
    return masked_fill(x, mask).sum(axis)


def masked_mean(x: ArrayLike, mask: ArrayLike, axis: Axis = None) -> Array:
    """Average the entries that count.

    ``sum_t mask_t x_t / sum_t mask_t``

    Args:
        x: [...].
        mask: [...], the same shape.
        axis: the axes to average over; None is all of them.

    Returns:
        float32, without the averaged axes; 0 where nothing counts.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(masked_mean(jnp.array([[1.0, 3.0], [5.0, jnp.nan]]), jnp.array([[1, 1], [1, 0]]), axis=-1))
        [2. 5.]
    """
    return masked_sum(x, mask, axis) / jnp.maximum(_count(mask, axis), 1)


def masked_whiten(x: ArrayLike, mask: ArrayLike, *, shift_mean: bool = True) -> Array:
    """Scale the entries that count to variance 1 and, unless told otherwise, to mean 0.

    ``(x - mean) / sqrt(var + 1e-8)``, over all counted entries together; ``var`` divides by their number.

    Args:
        x: [...], advantages, or rewards with the mean kept (without it, every reward would move with the batch).
        mask: [...], the same shape.
        shift_mean: False puts the mean back after scaling.

    Returns:
        [...], float32; 0 behind the mask.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(masked_whiten(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False])))
        [-1.  1.  0.]

    Source: the code of Ziegler et al. 2019 (arXiv:1909.08593), which keeps the mean of rewards and removes that of
    advantages.
    """
    mean = masked_mean(x, mask)
    centred = masked_fill(masked_fill(x, mask) - mean, mask)
    whitened = centred / jnp.sqrt(masked_mean(jnp.square(centred), mask) + 1e-8)
    return whitened if shift_mean else masked_fill(whitened + mean, mask)


def token_mean(values: ArrayLike, mask: ArrayLike) -> tuple[Array, Array]:
    """Weigh every token of the global batch alike, so that long responses count for more.

    Args:
        values: [..., T].
        mask: [..., T].

    Returns:
        The sum over the tokens that count, and their number; both float32 [].

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> numerator, denominator = token_mean(jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[1, 1], [1, 0]]))
        >>> float(numerator), float(denominator)
        (9.0, 3.0)
    """
    return masked_sum(values, mask), _count(mask)


def sequence_mean(values: ArrayLike, mask: ArrayLike) -> tuple[Array, Array]:
    """Weigh every sequence alike, whatever its length: the mean over sequences of their mean token.

    Args:
        values: [..., T]; the last axis is one sequence.
        mask: [..., T].

    Returns:
        The sum over sequences of the mean token, and the number of sequences with a token that counts; float32 [].

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> numerator, denominator = sequence_mean(jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[1, 1], [1, 0]]))
        >>> float(numerator), float(denominator)
        (7.0, 2.0)
    """
    return masked_mean(values, mask, axis=-1).sum(), _count(as_mask(mask).any(-1))


def sequence_sum(values: ArrayLike, mask: ArrayLike) -> tuple[Array, Array]:
    """Average over sequences the *sum* of their tokens: the loss of a response is that of all its tokens.

    Args:
        values: [..., T]; the last axis is one sequence.
        mask: [..., T].

    Returns:
        The sum over the tokens that count, and the number of sequences with a token that counts; float32 [].

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> numerator, denominator = sequence_sum(jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[1, 1], [1, 0]]))
        >>> float(numerator), float(denominator)
        (9.0, 2.0)
    """
    return masked_sum(values, mask), _count(as_mask(mask).any(-1))


def constant(n: float) -> Reduction:
    """Make a reduction that divides the sum by ``n`` whatever the lengths: no token's weight depends on the others.

    Args:
        n: the divisor, for instance prompts x responses x the longest response allowed.

    Returns:
        A reduction; its numerator is ``sum / n`` and its denominator 0, "normalised already".

    Raises:
        ValueError: if ``n`` is not above 0.

    Example:
        >>> numerator, denominator = constant(6)(jnp.array([[1.0, 3.0], [5.0, 0.0]]), jnp.array([[1, 1], [1, 0]]))
        >>> float(numerator), float(denominator)
        (1.5, 0.0)

    Source: Liu et al. 2025, Dr. GRPO (arXiv:2503.20783).
    """
    check_range("n", n, above=0)

    def reduction(values: ArrayLike, mask: ArrayLike) -> tuple[Array, Array]:
        total = masked_sum(values, mask) / n
        return total, jnp.zeros_like(total)

    return reduction


def _count(mask: ArrayLike, axis: Axis = None) -> Array:
    return as_float(as_mask(mask)).sum(axis)
