"""Odds-ratio preference optimisation: supervised fine-tuning and preferences in one stage, without a reference."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.objectives.pairs import pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def orpo(outputs: Outputs, batch: SequenceBatch, *, weight: float = 0.1) -> Loss:
    """Supervised fine-tuning on the chosen response, and its odds against the rejected one's.

    ``L = -mean_w - weight log sigmoid(log odds_w - log odds_l)``, ``odds = p / (1 - p)``, ``p = exp(mean)``, ``mean``
    the mean log-probability of a response's tokens

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` [B, 2, S], the chosen response first.
        weight: the paper's ``lambda``; usually 0.01 to 1 (0.1 to 0.25 in Hong et al. 2024).

    Returns:
        A loss averaged over the pairs, nats a token. Metrics: those of ``pairs.pair_loss``, with ``mean`` as the
        implicit reward, ``preference_loss`` (weighted) and ``sft_loss``.

    Raises:
        ValueError: if ``outputs.logprobs`` is missing, the groups are not pairs or ``weight`` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1)
        >>> loss = orpo(Outputs(logprobs=jnp.log(jnp.array([[[0.75], [0.5]]]))), batch, weight=1.0)
        >>> print(f"{loss.values[0]:.4f}")  # odds 3 and 1: log(4/3) + log(1 + 1/3)
        0.5754

    Source: Hong et al. 2024, eqs. 6 and 7 (arXiv:2403.07691).
    """
    warn_outside("weight", weight, 0.01, 1.0, "Hong et al. 2024")
    pair = pairs(outputs, batch, reference=False, per_token=True)
    preference = losses.orpo(pair.chosen, pair.rejected, weight=weight)
    terms = {"preference_loss": preference, "sft_loss": -pair.chosen}
    return pair_loss(preference - pair.chosen, pair, (pair.chosen, pair.rejected), terms=terms)
