"""Rankings: the likelihood of an order of K responses under their scalar scores."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask

# Below any score: a missing response has no part in the sums. Not -inf, whose differences have no gradient.
MISSING = -1e30


def plackett_luce(ranked_scores: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Negative log-likelihood of a ranking: the best is chosen from all, the next from those that remain, and so on.

    ``L = -sum_k [r_(k) - logsumexp_{j >= k} r_(j)]``

    With K = 2 this is Bradley-Terry with a hard label.

    Args:
        ranked_scores: [..., K], the scores in the order people ranked the responses, best first.
        mask: [..., K], True where there is a response; what is missing, anywhere in the list, is left out of it. None
            if nothing is.

    Returns:
        [...], float32, nats, unreduced; 0 for fewer than two responses.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> print(f"{plackett_luce(jnp.zeros(3)):.4f}")  # one of 3! orders: log 6
        1.7918

    Source: Plackett 1975; Luce 1959; for language models: Rafailov et al. 2023, appendix A.3 (arXiv:2305.18290).
    """
    ranked_scores = as_float(ranked_scores)
    present = jnp.ones(ranked_scores.shape, bool) if mask is None else as_mask(mask)
    chex.assert_equal_shape([ranked_scores, present])  # [..., K]
    scores = jnp.where(present, ranked_scores, MISSING)
    remaining = jax.lax.cumlogsumexp(scores, axis=scores.ndim - 1, reverse=True)
    return jnp.where(present, remaining - scores, 0).sum(-1)
