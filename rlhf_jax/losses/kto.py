"""KTO: thumbs up and thumbs down on single responses, weighed against a reference point."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.checks import check_range
from rlhf_jax.losses.preference import implicit_reward


def kto(
    logprobs: ArrayLike,
    ref_logprobs: ArrayLike,
    desirable: ArrayLike,
    kl: ArrayLike,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Array:
    """Thumbs up or down on single responses, valued as people value gains and losses: against a reference point.

    ``L = w_D [1 - sigmoid(beta (h - z))]`` where desirable, ``w_U [1 - sigmoid(beta (z - h))]`` where not,
    with ``h = s - s_ref`` and ``z = KL(pi || pi_ref)``

    Args:
        logprobs: [...], ``s``, summed over the response; nats.
        ref_logprobs: [...], ``s_ref``, under the reference.
        desirable: [...], True or 1 for thumbs up, False or 0 for thumbs down.
        kl: ``z``, broadcast to [...], nats; one estimate for the whole batch. No gradient flows into it.
        beta: how fast value saturates away from the reference point; usually 0.01 to 0.5.
        desirable_weight: ``w_D``.
        undesirable_weight: ``w_U``; the two make ``w_D n_D / (w_U n_U)`` of the dataset usually 1 to 4/3.

    Returns:
        [...], float32, between 0 and the weight, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0 or a weight is negative.

    Example:
        >>> up = kto(-8.0, -10.0, True, 0.0, beta=0.5)
        >>> down = kto(-8.0, -10.0, False, 0.0, beta=0.5)
        >>> print(f"{up:.4f} {down:.4f}")  # 1 / (1 + e), e / (1 + e)
        0.2689 0.7311

    Source: Ethayarajh et al. 2024, section 4 (arXiv:2402.01306).
    """
    check_range("desirable_weight", desirable_weight, at_least=0)
    check_range("undesirable_weight", undesirable_weight, at_least=0)
    rewards, desirable = implicit_reward(logprobs, ref_logprobs, beta=beta), as_mask(desirable)
    chex.assert_equal_shape([rewards, desirable])  # [...]
    reference_point = beta * jax.lax.stop_gradient(jnp.broadcast_to(as_float(kl), rewards.shape))
    surplus = rewards - reference_point
    # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where x is large.
    return jnp.where(
        desirable, desirable_weight * jax.nn.sigmoid(-surplus), undesirable_weight * jax.nn.sigmoid(surplus)
    )
