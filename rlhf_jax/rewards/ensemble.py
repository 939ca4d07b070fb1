"""Several reward models as one: how their scores become a reward, and how much they disagree."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.fields import check_fields
from rlhf_jax.losses.arrays import as_float
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """How the members of a reward-model ensemble are combined; a single reward model is left as it is.

    Raises:
        ValueError: when ``k`` is negative.
    """

    combine: Literal["mean", "min", "lower_bound"] = "mean"
    """`mean`; `min`, the worst case; or `lower_bound`, mean - k * std. The last two pay less where the members
    disagree, which is where a policy finds what a single reward model gets wrong (Coste et al. 2023)."""
    k: float = 1.0
    """Standard deviations taken off by `lower_bound`; usually 0.5 to 2."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.k >= 0:
            raise ValueError(f"ensemble.k must not be negative, found {self.k}")
        warn_outside("ensemble.k", self.k, 0.0, 5.0, "usually 0.5 to 2")


def combine(scores: Array, config: EnsembleConfig) -> Array:
    """Combine the members' scores into one reward.

    ``mean_m r_m``, ``min_m r_m`` or ``mean_m r_m - k std_m r_m``

    Args:
        scores: [M, ...], one row a member.
        config: which of the three.

    Returns:
        [...], float32.

    Example:
        >>> import jax.numpy as jnp
        >>> scores = jnp.array([[1.0, 4.0], [3.0, 4.0]])
        >>> [combine(scores, EnsembleConfig(combine=how)).tolist() for how in ("mean", "min", "lower_bound")]
        [[2.0, 4.0], [1.0, 4.0], [1.0, 4.0]]

    Source: Coste et al. 2023, section 3 (arXiv:2310.02743).
    """
    scores = as_float(scores)
    if config.combine == "min":
        return scores.min(0)
    mean = scores.mean(0)
    return mean - config.k * disagreement(scores) if config.combine == "lower_bound" else mean


def disagreement(scores: Array) -> Array:
    """How far the members are apart: the standard deviation of their scores.

    Args:
        scores: [M, ...], one row a member.

    Returns:
        [...], float32; the variance is divided by M. 0 for a single model.

    Example:
        >>> import jax.numpy as jnp
        >>> disagreement(jnp.array([[1.0, 4.0], [3.0, 4.0]])).tolist()
        [1.0, 0.0]
    """
    return as_float(scores).std(0)
