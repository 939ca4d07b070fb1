"""Pairwise comparison: the likelihood of people's choices under two scalar scores."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float
from rlhf_jax.losses.checks import check_range


def bradley_terry(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    preference: ArrayLike = 1.0,
    margin: ArrayLike = 0.0,
    center: float = 0.0,
) -> Array:
    """Negative log-likelihood of a preference between two scored responses.

    ``P(w > l) = sigmoid(d)``, ``d = r_w - r_l - margin``;
    ``L = -[p log sigmoid(d) + (1 - p) log sigmoid(-d)] + c (r_w + r_l)^2``

    Args:
        chosen: [...], the score ``r_w`` of the response that ``preference`` speaks for.
        rejected: [...], the score ``r_l`` of the other one.
        preference: ``p``, broadcast to [...]: 1 for a hard label, 1/2 for a tie, or the share of votes for ``chosen``.
        margin: broadcast to [...]: how much better the chosen one must score; Llama 2 uses 0 to 3 by how clearly
            people preferred it. Meant for hard labels.
        center: ``c``; 0, or about 0.01. The likelihood knows only differences; this ties down their common level.

    Returns:
        [...], float32, nats, unreduced.

    Raises:
        AssertionError: if the shapes of the scores differ.
        ValueError: if ``preference`` is a number outside [0, 1] or ``center`` is negative.

    Example:
        >>> print(bradley_terry(jnp.array([0.0, 2.0]), jnp.array([0.0, 0.0])).round(4))  # log 2, log(1 + exp(-2))
        [0.6931 0.1269]

    Source: Bradley & Terry 1952; soft labels: Christiano et al. 2017, section 2.2.3 (arXiv:1706.03741); margin:
    Touvron et al. 2023, section 3.2.2 (arXiv:2307.09288); centring: Eisenstein et al. 2023 (arXiv:2312.09244).
    """
    check_range("preference", preference, at_least=0, at_most=1)
    check_range("center", center, at_least=0)
    chosen, rejected = as_float(chosen), as_float(rejected)
    chex.assert_equal_shape([chosen, rejected])  # [...]
    p = jnp.broadcast_to(as_float(preference), chosen.shape)
    d = chosen - rejected - jnp.broadcast_to(as_float(margin), chosen.shape)
    likelihood = p * jax.nn.log_sigmoid(d) + (1 - p) * jax.nn.log_sigmoid(-d)
    return -likelihood + center * jnp.square(chosen + rejected)
