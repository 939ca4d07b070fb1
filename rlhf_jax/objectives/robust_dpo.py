"""DPO for labels of which a known share is wrong."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.objectives.pairs import implicit_rewards, pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def robust_dpo(outputs: Outputs, batch: SequenceBatch, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Loss:
    """DPO whose expectation over wrong labels is DPO on the right ones.

    ``L = [-(1 - e) log sigmoid(d) + e log sigmoid(-d)] / (1 - 2 e)``,
    ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``, ``s`` summed over the response

    Where conservative DPO (``dpo`` with ``label_smoothing``) is content with a finite ``d``, this loss falls for ever
    as ``d`` grows: watch ``reward_margin``, and stop early.

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and ``ref_logprobs`` [B, 2, S], the chosen response first. No gradient flows into them.
        beta: weight of the KL to the reference; usually 0.01 to 0.5 (0.1 in Chowdhury et al. 2024).
        label_smoothing: ``e``, the probability that a label is wrong; usually 0.1 (Chowdhury et al. 2024), always
            below 0.5.

    Returns:
        A loss averaged over the pairs, nats; may be negative. Metrics: those of ``pairs.pair_loss``, with
        ``beta (s - s_ref)`` as the implicit reward.

    Raises:
        ValueError: if a field is missing, the groups are not pairs, ``beta`` is not above 0 or ``label_smoothing`` is
            outside [0, 0.5).

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, ref_logprobs=jnp.array([[[-10.0], [-10.0]]]))
        >>> outputs = Outputs(logprobs=jnp.array([[[-8.0], [-10.0]]]))
        >>> loss = robust_dpo(outputs, batch, beta=0.5, label_smoothing=0.25)
        >>> print(f"{loss.values[0]:.4f}")  # 0.3133 - 1 / 2
        -0.1867

    Source: Chowdhury et al. 2024 (arXiv:2403.00409).
    """
    warn_outside("beta", beta, 0.01, 0.5, "Rafailov et al. 2023")
    pair = pairs(outputs, batch)
    values = losses.robust_dpo(
        pair.chosen, pair.rejected, pair.ref_chosen, pair.ref_rejected, beta=beta, label_smoothing=label_smoothing
    )
    return pair_loss(values, pair, implicit_rewards(pair, beta))
