"""Contrastive preference optimisation: DPO without a reference, held in place by supervised fine-tuning."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.pairs import chosen_nll, implicit_rewards, pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def cpo(
    outputs: Outputs, batch: SequenceBatch, *, beta: float = 0.1, sft_weight: float = 1.0, label_smoothing: float = 0.0
) -> Loss:
    """Raise the chosen response against the rejected one, and its likelihood as such.

    ``L = -(1 - e) log sigmoid(d) - e log sigmoid(-d) - sft_weight s_w / |y_w|``, ``d = beta (s_w - s_l)``,
    ``s`` summed over the response

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` [B, 2, S], the chosen response first.
        beta: reward a nat; usually 0.01 to 0.5 (0.1 in Xu et al. 2024).
        sft_weight: weight of the mean negative log-likelihood of the chosen response; usually 1 (Xu et al. 2024).
        label_smoothing: ``e``, the share of labels thought wrong; usually 0 to 0.5 (Mitchell 2023).

    Returns:
        A loss averaged over the pairs, nats. Metrics: those of ``pairs.pair_loss``, with ``beta s`` as the implicit
        reward, ``preference_loss`` and ``sft_loss``.

    Raises:
        ValueError: if ``outputs.logprobs`` is missing, the groups are not pairs, ``beta`` is not above 0,
            ``sft_weight`` is negative or ``label_smoothing`` is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1)
        >>> loss = cpo(Outputs(logprobs=jnp.array([[[-8.0], [-10.0]]])), batch, beta=0.5)
        >>> print(f"{loss.values[0]:.4f}")  # log(1 + exp(-1)) + 8
        8.3133

    Source: Xu et al. 2024 (arXiv:2401.08417).
    """
    warn_outside("beta", beta, 0.01, 0.5, "Rafailov et al. 2023")
    check_range("sft_weight", sft_weight, at_least=0)
    check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
    warn_outside("label_smoothing", label_smoothing, 0, 0.5, "Mitchell 2023")
    pair = pairs(outputs, batch, reference=False)
    preference = losses.cpo(pair.chosen, pair.rejected, beta=beta, label_smoothing=label_smoothing)
    nll = chosen_nll(pair)
    terms = {"preference_loss": preference, "sft_loss": nll}
    return pair_loss(preference + sft_weight * nll, pair, implicit_rewards(pair, beta), terms=terms)
