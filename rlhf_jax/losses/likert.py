"""Absolute ratings: people give one response a number, instead of comparing two."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float
from rlhf_jax.losses.checks import check_range


def likert(scores: ArrayLike, ratings: ArrayLike, *, mean: float = 0.0, std: float = 1.0) -> Array:
    """Squared error of a score against the standardised rating.

    ``L = (r - (rating - mean) / std)^2``

    Args:
        scores: [...], ``r``, in standard deviations from the mean rating.
        ratings: [...], as people gave them, say 1 to 5; constants to the caller's gradient.
        mean: that of the ratings in the training data, in their units.
        std: that of the ratings in the training data; above 0.

    Returns:
        [...], float32, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``std`` is not above 0.

    Example:
        >>> print(likert(jnp.array([0.0, 1.0]), jnp.array([5, 4]), mean=3.0, std=1.0))  # (0 - 2)^2, (1 - 1)^2
        [4. 0.]

    Source: reward models as regression on ratings: Wang et al. 2024, HelpSteer2 (arXiv:2406.08673).
    """
    check_range("std", std, above=0)
    scores, ratings = as_float(scores), as_float(ratings)
    chex.assert_equal_shape([scores, ratings])  # [...]
    return jnp.square(scores - (ratings - mean) / std)
