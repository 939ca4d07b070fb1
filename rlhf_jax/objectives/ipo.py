"""Identity preference optimisation: a fixed gap to reach instead of one that grows for ever."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.objectives.pairs import implicit_rewards, pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def ipo(outputs: Outputs, batch: SequenceBatch, *, beta: float = 0.1, length_normalised: bool = True) -> Loss:
    """Squared distance of the gap between the log-ratios from ``1 / (2 beta)``.

    ``L = [(s_w - s_w^ref) - (s_l - s_l^ref) - 1 / (2 beta)]^2``

    The paper means the *sum* of a response's log-probabilities by ``s`` (``length_normalised=False``). Practice has
    settled on their *mean*, the default here: a fixed gap between sums asks little of long responses and much of short
    ones. The two give losses of different size, and want a different ``beta``.

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and ``ref_logprobs`` [B, 2, S], the chosen response first. No gradient flows into them.
        beta: the paper's ``tau``; the gap aimed at is ``1 / (2 beta)`` nats, a token or a response; usually 0.01 to 1
            (0.1 to 1 in Azar et al. 2023, 0.01 and up in practice).
        length_normalised: means (practice), or sums (the paper).

    Returns:
        A loss averaged over the pairs, nats squared. Metrics: those of ``pairs.pair_loss``, with ``beta (s - s_ref)``
        as the implicit reward, so that ``reward_margin`` aims at 1/2.

    Raises:
        ValueError: if a field is missing, the groups are not pairs or ``beta`` is not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, ref_logprobs=jnp.array([[[-10.0], [-10.0]]]))
        >>> print(ipo(Outputs(logprobs=jnp.array([[[-8.0], [-10.0]]])), batch, beta=0.1).values)  # (2 - 5)^2
        [9.]

    Source: Azar et al. 2023, eq. 17 (arXiv:2310.12036).
    """
    warn_outside("beta", beta, 0.01, 1.0, "Azar et al. 2023")
    pair = pairs(outputs, batch, per_token=length_normalised)
    values = losses.ipo(pair.chosen, pair.rejected, pair.ref_chosen, pair.ref_rejected, beta=beta)
    return pair_loss(values, pair, implicit_rewards(pair, beta))
