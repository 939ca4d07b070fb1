"""How far the policy has moved from the reference: per-token KL estimates, the exact KL, and KL as part of the reward.

The estimates see only the sampled token; with ``log_ratio = log pi(y_t) - log pi_ref(y_t)`` and tokens sampled from the
policy, their mean estimates ``KL(pi || pi_ref)``. Sampled from another distribution they estimate something else.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.masked import masked_fill


def k1(logprobs: ArrayLike, ref_logprobs: ArrayLike) -> Array:
    """The plain estimate: unbiased, of high variance, negative for single tokens.

    ``log_ratio``

    Args:
        logprobs: [..., T], under the policy that sampled the tokens.
        ref_logprobs: [..., T], under the reference.

    Returns:
        [..., T], float32, nats.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(k1(-1.0, -3.0))
        2.0

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return _log_ratio(logprobs, ref_logprobs)


def k2(logprobs: ArrayLike, ref_logprobs: ArrayLike) -> Array:
    """The squared estimate: biased, of low variance, never negative.

    ``log_ratio^2 / 2``

    Args:
        logprobs: [..., T], under the policy that sampled the tokens.
        ref_logprobs: [..., T], under the reference.

    Returns:
        [..., T], float32, nats.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(k2(-1.0, -3.0))
        2.0

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return jnp.square(_log_ratio(logprobs, ref_logprobs)) / 2


def k3(logprobs: ArrayLike, ref_logprobs: ArrayLike) -> Array:
    """The corrected estimate: unbiased and never negative; what GRPO puts in its loss.

    ``exp(-log_ratio) - 1 + log_ratio``

    Args:
        logprobs: [..., T], under the policy that sampled the tokens.
        ref_logprobs: [..., T], under the reference.

    Returns:
        [..., T], float32, nats.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(f"{k3(-1.0, -3.0):.4f}")  # exp(-2) - 1 + 2
        1.1353

    Source: Schulman 2020, "Approximating KL divergence".
    """
    log_ratio = _log_ratio(logprobs, ref_logprobs)
    return jnp.expm1(-log_ratio) + log_ratio  # expm1: near 0 the estimate is a small difference


def full_kl(logits: ArrayLike, ref_logits: ArrayLike) -> Array:
    """The exact KL at each position, over the whole vocabulary.

    ``KL(pi || pi_ref) = sum_v pi_v (log pi_v - log pi_ref_v)``

    Args:
        logits: [..., T, V], the policy's, any float type.
        ref_logits: [..., T, V], the reference's.

    Returns:
        [..., T], float32, nats; inf where the reference excludes a token (logit -inf) that the policy does not.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(f"{full_kl(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))):.4f}")  # log(4/3) / 2
        0.1438
    """
    logits, ref_logits = as_float(logits), as_float(ref_logits)
    chex.assert_equal_shape([logits, ref_logits])  # [..., T, V]
    logprobs, ref_logprobs = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
    probs = jnp.exp(logprobs)
    # A token the policy excludes contributes 0, even where the reference excludes it too (-inf less -inf).
    log_ratio = jnp.where(probs > 0, logprobs - ref_logprobs, 0)
    return jnp.sum(probs * log_ratio, axis=-1)


def kl_penalised_rewards(
    scores: ArrayLike,
    logprobs: ArrayLike,
    ref_logprobs: ArrayLike,
    mask: ArrayLike,
    *,
    kl_coef: ArrayLike,
    estimator: Callable[[Array, Array], Array] = k1,
) -> Array:
    """Per-token rewards: every token pays for its KL, the last one receives the score of the whole response.

    ``R_t = r(x, y) 1[t = T_end] - beta kl_t``, where ``T_end`` is the last token that counts.

    Args:
        scores: [...], the reward of each response; ignored where no token counts.
        logprobs: [..., T], under the policy that sampled.
        ref_logprobs: [..., T], under the reference.
        mask: [..., T], True on response tokens; holes are allowed.
        kl_coef: ``beta``, a scalar and possibly traced, as a controller changes it; usually 0.01 to 0.2.
        estimator: ``k1`` (the standard), ``k2`` or ``k3``.

    Returns:
        [..., T], float32; 0 behind the mask.

    Raises:
        AssertionError: if the shapes do not agree.

    Example:
        >>> rewards = kl_penalised_rewards(jnp.array(1.0), jnp.array([-1.0, -1.0, 0.0]), jnp.array([-2.0, -3.0, 0.0]),
        ...                                jnp.array([True, True, False]), kl_coef=0.25)
        >>> print(rewards)
        [-0.25  0.5   0.  ]

    Source: Ziegler et al. 2019, eq. 2 (arXiv:1909.08593); Ouyang et al. 2022, eq. 2 (arXiv:2203.02155).
    """
    mask = as_mask(mask)
    logprobs, ref_logprobs = masked_fill(logprobs, mask), masked_fill(ref_logprobs, mask)  # [..., T]
    scores = as_float(scores)
    chex.assert_shape(scores, mask.shape[:-1])  # [...]
    remaining = jnp.flip(jnp.cumsum(jnp.flip(mask, -1), axis=-1), -1)  # tokens that count from t on
    is_last = mask & (remaining == 1)
    penalty = masked_fill(kl_coef * estimator(logprobs, ref_logprobs), mask)
    return jnp.where(is_last, scores[..., None], 0) - penalty


def _log_ratio(logprobs: ArrayLike, ref_logprobs: ArrayLike) -> Array:
    logprobs, ref_logprobs = as_float(logprobs), as_float(ref_logprobs)
    chex.assert_equal_shape([logprobs, ref_logprobs])  # [..., T]
    return logprobs - ref_logprobs
