"""Simple preference optimisation: the mean log-probability, by which text is generated, is the reward."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.objectives.pairs import implicit_rewards, pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def simpo(outputs: Outputs, batch: SequenceBatch, *, beta: float = 2.0, margin: float = 1.0) -> Loss:
    """Raise the chosen response's mean log-probability above the rejected one's, by a margin; no reference.

    ``L = -log sigmoid(beta (mean_w - mean_l) - margin)``

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` [B, 2, S], the chosen response first.
        beta: reward a nat; usually 1 to 10 (2 to 10 in Meng et al. 2024), as means vary far less than sums.
        margin: the paper's ``gamma``, in units of reward; usually 0 to 5 (0.3 to 1.6 at ``beta`` 2 to 2.5 in Meng et
            al. 2024; their code gives it as a share of ``beta``).

    Returns:
        A loss averaged over the pairs, nats. Metrics: those of ``pairs.pair_loss``, with ``beta mean`` as the implicit
        reward.

    Raises:
        ValueError: if ``outputs.logprobs`` is missing, the groups are not pairs, ``beta`` is not above 0 or ``margin``
            is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1)
        >>> loss = simpo(Outputs(logprobs=jnp.array([[[-1.0], [-2.0]]])), batch)
        >>> print(f"{loss.values[0]:.4f}")  # log(1 + exp(1 - 2))
        0.3133

    Source: Meng et al. 2024, eq. 6 (arXiv:2405.14734).
    """
    warn_outside("beta", beta, 1.0, 10.0, "Meng et al. 2024")
    warn_outside("margin", margin, 0.0, 5.0, "Meng et al. 2024")
    pair = pairs(outputs, batch, reference=False, per_token=True)
    values = losses.simpo(pair.chosen, pair.rejected, beta=beta, margin=margin)
    return pair_loss(values, pair, implicit_rewards(pair, beta))
