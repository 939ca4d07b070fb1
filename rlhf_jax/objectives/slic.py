"""Sequence likelihood calibration: pairs that are told apart clearly enough are left alone."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.pairs import chosen_nll, implicit_rewards, pair_loss, pairs
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def slic(
    outputs: Outputs, batch: SequenceBatch, *, beta: float = 0.1, delta: float = 1.0, sft_weight: float = 0.0
) -> Loss:
    """A hinge on implicit rewards and, if asked for, supervised fine-tuning on the chosen response.

    ``L = max(0, delta - d) - sft_weight s_w / |y_w|``, ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``,
    ``s`` summed over the response

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and ``ref_logprobs`` [B, 2, S], the chosen response first. No gradient flows into them. With
            zeros as ``ref_logprobs`` this is SLiC-HF, which has no reference.
        beta: weight of the KL to the reference; usually 0.01 to 0.5, as in DPO (0.05 in Liu et al. 2023).
        delta: the margin, in units of reward; usually 1, as ``beta`` sets the scale already.
        sft_weight: weight of the mean negative log-likelihood; 0 against a reference, which holds the policy in place;
            usually up to 1 without one (Zhao et al. 2023).

    Returns:
        A loss averaged over the pairs. Metrics: those of ``pairs.pair_loss``, with ``beta (s - s_ref)`` as the implicit
        reward, ``preference_loss``, ``sft_loss`` and ``active`` (share of pairs within the margin).

    Raises:
        ValueError: if a field is missing, the groups are not pairs, ``beta`` or ``delta`` is not above 0, or
            ``sft_weight`` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, ref_logprobs=jnp.array([[[-10.0], [-10.0]]]))
        >>> print(slic(Outputs(logprobs=jnp.array([[[-8.0], [-10.0]]])), batch, beta=0.25).values)  # 1 - 0.25 * 2
        [0.5]

    Source: Zhao et al. 2023, SLiC-HF (arXiv:2305.10425); against a reference: Liu et al. 2023, RSO (arXiv:2309.06657).
    """
    warn_outside("beta", beta, 0.01, 0.5, "Liu et al. 2023")
    check_range("sft_weight", sft_weight, at_least=0)
    pair = pairs(outputs, batch)
    preference = losses.slic(pair.chosen, pair.rejected, pair.ref_chosen, pair.ref_rejected, beta=beta, delta=delta)
    nll = chosen_nll(pair)
    terms = {"preference_loss": preference, "sft_loss": nll, "active": preference > 0}
    return pair_loss(preference + sft_weight * nll, pair, implicit_rewards(pair, beta), terms=terms)
