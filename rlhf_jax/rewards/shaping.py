"""Reward shaping, before the KL penalty is added: normalise, clip, length penalty, no-EOS penalty."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from rlhf_jax.fields import check_fields
from rlhf_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """What is done to a response's score before PPO sees it.

    Raises:
        ValueError: on a negative penalty or a clip that is not positive.
    """

    normalise: bool = True
    """Subtract the running mean and divide by the running standard deviation of the scores seen so far."""
    clip: float = 5.0
    """Scores are held in [-clip, clip], in standard deviations when normalised."""
    no_eos_penalty: float = 1.0
    """Subtracted from a response that hit the length limit instead of ending itself (Stiennon et al. 2020 use such
    a penalty for summaries that do not stop)."""
    length_penalty: float = 0.0
    """Subtracted for every response token; 0 is off."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.clip <= 0:
            raise ValueError(f"shaping.clip must be positive, found {self.clip}")
        if self.no_eos_penalty < 0 or self.length_penalty < 0:
            raise ValueError("shaping penalties are subtracted: they must not be negative")


class Moments(NamedTuple):
    """Running count, mean and sum of squared deviations of all scores seen (Welford; Chan et al. 1979)."""

    seen: Array  # float32 []; how many scores
    mean: Array  # float32 []
    m2: Array  # float32 []


def empty_moments() -> Moments:
    """Make the moments of no scores at all.

    Example:
        >>> float(empty_moments().seen)
        0.0
    """
    return Moments(jnp.float32(0), jnp.float32(0), jnp.float32(0))


def add_to_moments(moments: Moments, scores: Array) -> Moments:
    """Fold a batch of scores into the running moments; the result does not depend on how scores were batched.

    Args:
        moments: those of the scores so far.
        scores: float32, any shape.

    Returns:
        The moments of everything seen.

    Example:
        >>> m = add_to_moments(empty_moments(), jnp.array([1.0, 3.0]))
        >>> float(m.mean), float(m.m2 / m.seen)
        (2.0, 1.0)
    """
    n = jnp.float32(scores.size)
    mean = jnp.mean(scores)
    total = moments.seen + n
    delta = mean - moments.mean
    m2 = moments.m2 + jnp.sum((scores - mean) ** 2) + delta**2 * moments.seen * n / total
    return Moments(total, moments.mean + delta * n / total, m2)


def shape_rewards(scores: Array, finished: Array, lengths: Array, moments: Moments, config: ShapingConfig) -> Array:
    """Shape one score a response.

    ``clip((score - mean) / std) - no_eos_penalty * [not finished] - length_penalty * length``

    Args:
        scores: float32 [B, K], from the reward.
        finished: bool [B, K], True where the response ended itself.
        lengths: [B, K], response tokens.
        moments: running moments that already include these scores.
        config: which parts are on.

    Returns:
        float32 [B, K].

    Example:
        >>> config = ShapingConfig(normalise=False, clip=2.0, no_eos_penalty=1.0)
        >>> scores, finished = jnp.array([[3.0], [0.5]]), jnp.array([[True], [False]])
        >>> shape_rewards(scores, finished, jnp.array([[4], [4]]), empty_moments(), config)
        Array([[ 2. ],
               [-0.5]], dtype=float32)
    """
    shaped = scores.astype(jnp.float32)
    if config.normalise:
        std = jnp.sqrt(moments.m2 / jnp.maximum(moments.seen, 1.0))
        shaped = (shaped - moments.mean) / jnp.maximum(std, 1e-4)
    shaped = jnp.clip(shaped, -config.clip, config.clip)
    shaped = shaped - config.no_eos_penalty * (~finished).astype(jnp.float32)
    return shaped - config.length_penalty * lengths.astype(jnp.float32)
