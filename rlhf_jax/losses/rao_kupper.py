"""Pairwise comparison with three answers: the first is better, the second is, or neither."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.checks import check_range


def rao_kupper(chosen: ArrayLike, rejected: ArrayLike, *, tie: ArrayLike, theta: ArrayLike) -> Array:
    """Negative log-likelihood of a preference, or of a tie, between two scored responses.

    ``P(w > l) = sigmoid(d - log theta)``, ``P(tie) = (theta^2 - 1) sigmoid(d - log theta) sigmoid(-d - log theta)``,
    ``d = r_w - r_l``; ``L = -log P`` of the one that happened

    The three outcomes, ``P(l > w)`` being ``P(w > l)`` at ``-d``, sum to 1. A gap below about ``log theta`` is one that
    people do not see.

    Args:
        chosen: [...], the score ``r_w`` of the response that won; in a tie, of either.
        rejected: [...], the score ``r_l`` of the other one.
        tie: bool, broadcast to [...]: True where neither won.
        theta: broadcast to [...], possibly traced, as it can be learned: at least 1, which leaves no room for ties (a
            tie then costs inf); at 2, one comparison in three of equal responses is a tie.

    Returns:
        [...], float32, nats, unreduced.

    Raises:
        AssertionError: if the shapes of the scores differ.
        ValueError: if ``theta`` is a number below 1.

    Example:
        >>> scores = jnp.zeros(2)
        >>> print(rao_kupper(scores, scores, tie=jnp.array([False, True]), theta=2.0).round(4))  # log 3, log 3
        [1.0986 1.0986]

    Source: Rao & Kupper 1967, "Ties in paired-comparison experiments: a generalization of the Bradley-Terry model".
    """
    check_range("theta", theta, at_least=1)
    chosen, rejected = as_float(chosen), as_float(rejected)
    chex.assert_equal_shape([chosen, rejected])  # [...]
    tie = jnp.broadcast_to(as_mask(tie), chosen.shape)
    theta = jnp.broadcast_to(as_float(theta), chosen.shape)
    d = chosen - rejected
    won = jax.nn.log_sigmoid(d - jnp.log(theta))
    lost = jax.nn.log_sigmoid(-d - jnp.log(theta))
    room = jnp.where(tie, theta, 2)  # where nobody tied, theta may be 1, whose logarithm below has no gradient
    tied = jnp.log(room - 1) + jnp.log(room + 1) + won + lost
    return -jnp.where(tie, tied, won)
