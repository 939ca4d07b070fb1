"""Direct preference optimisation: the policy is its own reward model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.fields import required
from rlhf_jax.objectives.pairs import implicit_rewards, pair_loss, pairs, swapped
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch

# A mean log-ratio is smaller than a sum by the length of the response, so its beta is larger.
USUAL_BETA = (0.01, 0.5, "Rafailov et al. 2023")
USUAL_BETA_PER_TOKEN = (0.01, 10.0, "Lambert et al. 2024")


def dpo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    length_normalised: bool = False,
    soft_labels: bool = False,
) -> Loss:
    """Raise the chosen response against the rejected one, each measured from the reference.

    ``L = -(1 - e) log sigmoid(d) - e log sigmoid(-d)``, ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``

    ``s`` is the summed log-probability of a response, or with ``length_normalised`` the mean of its tokens'. With
    ``soft_labels`` the share of votes takes the place of the label: the pairs may then stand in either order, and
    those without votes do not count.

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and ``ref_logprobs`` [B, 2, S], the chosen response first; with ``soft_labels`` also ``votes``
            [B, 2, 2]. No gradient flows into them.
        beta: weight of the KL to the reference; usually 0.01 to 0.5 (0.1 and 0.5 in Rafailov et al. 2023); per token
            up to 10 (5 in Lambert et al. 2024).
        label_smoothing: ``e``, the share of labels thought wrong; usually 0 to 0.5 (Mitchell 2023). With soft
            labels ``e`` mixes the share with the opposite one.
        length_normalised: means instead of sums, so that a long response does not count for more.
        soft_labels: learn from shares of votes.

    Returns:
        A loss averaged over the pairs, nats. Metrics: those of ``pairs.pair_loss``, with ``beta (s - s_ref)`` as the
        implicit reward; under ``soft_labels`` the chosen response is the majority's, and tied votes stay out of them.

    Raises:
        ValueError: if a field is missing, the groups are not pairs, ``beta`` is not above 0 or ``label_smoothing`` is
            outside [0, 1].

    Example:
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, ref_logprobs=jnp.array([[[-10.0], [-10.0]]]))
        >>> loss = dpo(Outputs(logprobs=jnp.array([[[-8.0], [-10.0]]])), batch, beta=0.5)
        >>> print(f"{loss.values[0]:.4f}", loss.metrics["reward_margin"][0])  # log(1 + exp(-1))
        0.3133 [1.]

    Source: Rafailov et al. 2023, eq. 7 (arXiv:2305.18290); smoothed labels: Mitchell 2023, "A note on DPO with noisy
    preferences and relationship to IPO"; per token: Lambert et al. 2024, Tulu 3 (arXiv:2411.15124).
    """
    warn_outside("beta", beta, *(USUAL_BETA_PER_TOKEN if length_normalised else USUAL_BETA))
    check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
    warn_outside("label_smoothing", label_smoothing, 0, 0.5, "Mitchell 2023")
    pair = pairs(outputs, batch, per_token=length_normalised)
    smoothing: Array | float = label_smoothing
    decided = None
    if soft_labels:
        share, voted = _share_of_first(required(batch.votes, "batch.votes"))
        pair = swapped(pair._replace(counted=pair.counted & voted), share < 0.5)
        minority = jnp.minimum(share, 1 - share)
        smoothing = minority + label_smoothing * (1 - 2 * minority)
        decided = share != 0.5
    values = losses.dpo(
        pair.chosen, pair.rejected, pair.ref_chosen, pair.ref_rejected, beta=beta, label_smoothing=smoothing
    )
    return pair_loss(values, pair, implicit_rewards(pair, beta), decided=decided)


def _share_of_first(votes: Array) -> tuple[Array, Array]:
    """The share of votes for the first response, 1/2 where there are none, and where there are any; each [B]."""
    votes = jax.lax.stop_gradient(votes)
    first, second = votes[:, 0, 1], votes[:, 1, 0]
    voted = first + second > 0
    return jnp.where(voted, first / jnp.where(voted, first + second, 1), 0.5), voted
