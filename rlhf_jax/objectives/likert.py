"""Reward modelling on ratings: scores that are the number people gave, standardised."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.objectives.fields import fixed, learned
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def likert(outputs: Outputs, batch: SequenceBatch, *, mean: float = 0.0, std: float = 1.0) -> Loss:
    """Regression of the scores on the ratings.

    ``L = mean (r - (rating - mean) / std)^2``, over responses

    Args:
        outputs: ``scores`` [B, K].
        batch: ``rating`` [B, K], in the raters' units; ``mask`` [B, K, S]. No gradient flows into them.
        mean: the mean rating in the training data, in the raters' units: 0 if they are standardised already, about 3
            on a scale of 1 to 5.
        std: the standard deviation of these ratings; above 0.

    Returns:
        One loss a response, [B, K], reduced by ``losses.token_mean``; empty responses do not count. Metrics: ``error``
        (absolute, in the raters' units) and ``reward_mean``.

    Raises:
        ValueError: if ``outputs.scores`` or ``batch.rating`` is missing, or ``std`` is not above 0.

    Example:
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, rating=jnp.array([[5.0, 2.0]]))
        >>> print(likert(Outputs(scores=jnp.array([[0.5, -0.5]])), batch, mean=3.0, std=2.0).values)
        [[0.25 0.  ]]

    Source: Wang et al. 2024, HelpSteer2 (arXiv:2406.08673).
    """
    present = batch.mask.any(-1)  # [B, K]
    scores = learned(outputs.scores, "outputs.scores", present)
    rating = fixed(batch.rating, "batch.rating", present)
    error = jnp.abs(std * scores + mean - rating)
    metrics = {"error": (error, present), "reward_mean": (scores, present)}
    return Loss(losses.likert(scores, rating, mean=mean, std=std), present, losses.token_mean, metrics)
