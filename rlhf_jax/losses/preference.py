"""Preference optimisation: comparisons become a loss on log-probabilities, without a reward model between.

Inputs are one number a response: its summed log-probability ``s = sum_t log pi(y_t)``, or where the name says ``mean``
the average over its tokens. Nothing here stops a gradient: that ``ref_*`` are constants is for the caller to see to.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float
from rlhf_jax.losses.bradley_terry import bradley_terry
from rlhf_jax.losses.checks import check_range

# Closer to 0 than this, float32 can hardly tell a mean log-probability from certainty, where the odds are infinite.
MAX_MEAN_LOGPROB = -1e-6


def implicit_reward(logprobs: ArrayLike, ref_logprobs: ArrayLike, *, beta: float) -> Array:
    """The reward for which the policy would be optimal, up to a constant of the prompt.

    ``r = beta (s - s_ref)``

    Args:
        logprobs: [...], summed over the response, under the policy; nats.
        ref_logprobs: [...], under the reference.
        beta: weight of the KL to the reference; usually 0.01 to 0.5 (Rafailov et al. 2023 use 0.1 and 0.5).

    Returns:
        [...], float32.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0.

    Example:
        >>> print(implicit_reward(-8.0, -12.0, beta=0.25))
        1.0

    Source: Rafailov et al. 2023, eq. 5 (arXiv:2305.18290).
    """
    check_range("beta", beta, above=0)
    logprobs, ref_logprobs = as_float(logprobs), as_float(ref_logprobs)
    chex.assert_equal_shape([logprobs, ref_logprobs])  # [...]
    return beta * (logprobs - ref_logprobs)


def dpo(
    chosen: ArrayLike,
    rejected: ArrayLike,
    ref_chosen: ArrayLike,
    ref_rejected: ArrayLike,
    *,
    beta: float,
    label_smoothing: ArrayLike = 0.0,
) -> Array:
    """Bradley-Terry on implicit rewards.

    ``L = -(1 - e) log sigmoid(d) - e log sigmoid(-d)``, ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``

    Args:
        chosen: [...], ``s_w``, summed over the response; nats.
        rejected: [...], ``s_l``.
        ref_chosen: [...], ``s_w^ref``, under the reference.
        ref_rejected: [...], ``s_l^ref``.
        beta: weight of the KL to the reference; usually 0.01 to 0.5 (Rafailov et al. 2023 use 0.1 and 0.5).
        label_smoothing: ``e``, broadcast to [...]: the share of labels thought wrong, usually 0 to 0.5, which keeps
            ``d`` finite (conservative DPO); or, pair by pair, the share of votes for ``rejected``.

    Returns:
        [...], float32, nats, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0 or ``label_smoothing`` is a number outside [0, 1].

    Example:
        >>> print(f"{dpo(-8.0, -10.0, -10.0, -10.0, beta=0.5):.4f}")  # log(1 + exp(-1))
        0.3133

    Source: Rafailov et al. 2023, eq. 7 (arXiv:2305.18290); smoothed labels: Mitchell 2023, "A note on DPO with noisy
    preferences and relationship to IPO".
    """
    check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
    rewards = implicit_reward(chosen, ref_chosen, beta=beta), implicit_reward(rejected, ref_rejected, beta=beta)
    return bradley_terry(*rewards, preference=1 - as_float(label_smoothing))


def robust_dpo(
    chosen: ArrayLike,
    rejected: ArrayLike,
    ref_chosen: ArrayLike,
    ref_rejected: ArrayLike,
    *,
    beta: float,
    label_smoothing: ArrayLike = 0.0,
) -> Array:
    """DPO corrected for labels that are wrong with a known probability: its mean over them is DPO on the true labels.

    ``L = [-(1 - e) log sigmoid(d) + e log sigmoid(-d)] / (1 - 2 e) = -log sigmoid(d) - e / (1 - 2 e) d``

    The loss has no lower bound: it falls for ever as ``d`` grows.

    Args:
        chosen: [...], ``s_w``, summed over the response; nats.
        rejected: [...], ``s_l``.
        ref_chosen: [...], ``s_w^ref``, under the reference.
        ref_rejected: [...], ``s_l^ref``.
        beta: as in ``dpo``.
        label_smoothing: ``e``, broadcast to [...]: the probability that a label is wrong; usually 0.1, below 0.5.

    Returns:
        [...], float32, nats, unreduced; may be negative.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0 or ``label_smoothing`` is a number outside [0, 0.5).

    Example:
        >>> print(f"{robust_dpo(-8.0, -10.0, -10.0, -10.0, beta=0.5, label_smoothing=0.25):.4f}")  # 0.3133 - 1 / 2
        -0.1867

    Source: Chowdhury et al. 2024 (arXiv:2403.00409).
    """
    check_range("label_smoothing", label_smoothing, at_least=0)
    if isinstance(label_smoothing, (int, float)) and label_smoothing >= 0.5:
        raise ValueError(f"label_smoothing must be below 0.5, found {label_smoothing:g}: half wrong labels say nothing")
    d = implicit_reward(chosen, ref_chosen, beta=beta) - implicit_reward(rejected, ref_rejected, beta=beta)
    e = jnp.broadcast_to(as_float(label_smoothing), d.shape)
    # The two log-sigmoids of the definition differ by d; taking their difference by hand leaves nothing to cancel.
    return -jax.nn.log_sigmoid(d) - e / (1 - 2 * e) * d


def ipo(
    chosen: ArrayLike, rejected: ArrayLike, ref_chosen: ArrayLike, ref_rejected: ArrayLike, *, beta: float
) -> Array:
    """Drive the gap between the log-ratios to a fixed size, so that even certain preferences leave the policy finite.

    ``L = [(s_w - s_w^ref) - (s_l - s_l^ref) - 1 / (2 beta)]^2``

    Args:
        chosen: [...], ``s_w``: summed over the response as in the paper, or averaged over its tokens; nats.
        rejected: [...], ``s_l``.
        ref_chosen: [...], ``s_w^ref``, under the reference.
        ref_rejected: [...], ``s_l^ref``.
        beta: the paper's ``tau``; the gap aimed at is ``1 / (2 beta)``; usually 0.01 to 1.

    Returns:
        [...], float32, nats squared, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0.

    Example:
        >>> print(ipo(-8.0, -10.0, -10.0, -10.0, beta=0.1))  # (2 - 5)^2
        9.0

    Source: Azar et al. 2023, eq. 17 (arXiv:2310.12036).
    """
    check_range("beta", beta, above=0)
    gap = implicit_reward(chosen, ref_chosen, beta=1.0) - implicit_reward(rejected, ref_rejected, beta=1.0)
    return jnp.square(gap - 1 / (2 * beta))


def slic(
    chosen: ArrayLike,
    rejected: ArrayLike,
    ref_chosen: ArrayLike,
    ref_rejected: ArrayLike,
    *,
    beta: float,
    delta: float = 1.0,
) -> Array:
    """Hinge loss on implicit rewards: a pair that is told apart clearly enough has no gradient.

    ``L = max(0, delta - d)``, ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``

    Args:
        chosen: [...], ``s_w``, summed over the response; nats.
        rejected: [...], ``s_l``.
        ref_chosen: [...], ``s_w^ref``, under the reference; with zeros for both it is SLiC-HF, which has no reference.
        ref_rejected: [...], ``s_l^ref``.
        beta: nats to units of the margin; usually 0.01 to 0.5, as in ``dpo``.
        delta: the margin; usually 1, as ``beta`` sets the scale already.

    Returns:
        [...], float32, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` or ``delta`` is not above 0.

    Example:
        >>> print(slic(jnp.array([-8.0, -8.0]), jnp.array([-10.0, -12.0]), jnp.full(2, -10.0), jnp.full(2, -10.0),
        ...            beta=0.25))  # 1 - 0.5, 1 - 1
        [0.5 0. ]

    Source: Zhao et al. 2023, SLiC-HF (arXiv:2305.10425); against a reference: Liu et al. 2023, RSO
    (arXiv:2309.06657).
    """
    check_range("delta", delta, above=0)
    d = implicit_reward(chosen, ref_chosen, beta=beta) - implicit_reward(rejected, ref_rejected, beta=beta)
    return jax.nn.relu(delta - d)


def orpo(chosen_mean: ArrayLike, rejected_mean: ArrayLike, *, weight: float) -> Array:
    """The odds-ratio term that ORPO adds to supervised fine-tuning on the chosen response.

    ``L = -weight log sigmoid(log odds_w - log odds_l)``, ``odds = p / (1 - p)``, ``p = exp(mean_t log pi(y_t))``

    Args:
        chosen_mean: [...], mean log-probability of the chosen response's tokens; nats.
        rejected_mean: [...], of the rejected one's.
        weight: the paper's ``lambda``; usually 0.01 to 1; 0.1 to 0.25 in the paper's models.

    Returns:
        [...], float32, nats, unreduced. Above -1e-6 a mean has the slope of the log-odds there, so that a response of
        probability 1 has finite odds and can still be lowered.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``weight`` is negative.

    Example:
        >>> print(f"{orpo(jnp.log(0.75), jnp.log(0.5), weight=1.0):.4f}")  # odds 3 and 1: log(1 + 1/3)
        0.2877

    Source: Hong et al. 2024, eqs. 6 and 7 (arXiv:2403.07691).
    """
    check_range("weight", weight, at_least=0)
    chosen_mean, rejected_mean = as_float(chosen_mean), as_float(rejected_mean)
    chex.assert_equal_shape([chosen_mean, rejected_mean])  # [...]
    return -weight * jax.nn.log_sigmoid(_log_odds(chosen_mean) - _log_odds(rejected_mean))


def simpo(chosen_mean: ArrayLike, rejected_mean: ArrayLike, *, beta: float, margin: float) -> Array:
    """Bradley-Terry on mean log-probabilities, with a margin and without a reference.

    ``L = -log sigmoid(beta (mean_w - mean_l) - margin)``

    Args:
        chosen_mean: [...], mean log-probability of the chosen response's tokens; nats.
        rejected_mean: [...], of the rejected one's.
        beta: reward a nat; usually 1 to 10, since a mean varies far less than a sum.
        margin: the paper's ``gamma``, in units of reward; usually 0 to 5.

    Returns:
        [...], float32, nats, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0 or ``margin`` is negative.

    Example:
        >>> print(f"{simpo(-1.0, -2.0, beta=2.0, margin=1.0):.4f}")  # log(1 + exp(-1))
        0.3133

    Source: Meng et al. 2024, eq. 6 (arXiv:2405.14734).
    """
    check_range("beta", beta, above=0)
    check_range("margin", margin, at_least=0)
    return bradley_terry(beta * as_float(chosen_mean), beta * as_float(rejected_mean), margin=margin)


def cpo(chosen: ArrayLike, rejected: ArrayLike, *, beta: float, label_smoothing: ArrayLike = 0.0) -> Array:
    """DPO with a uniform reference, whose terms cancel; CPO adds supervised fine-tuning on the chosen response.

    ``L = -(1 - e) log sigmoid(d) - e log sigmoid(-d)``, ``d = beta (s_w - s_l)``

    Args:
        chosen: [...], ``s_w``, summed over the response; nats.
        rejected: [...], ``s_l``.
        beta: reward a nat; usually 0.01 to 0.5; 0.1 in the paper.
        label_smoothing: ``e``, as in ``dpo``.

    Returns:
        [...], float32, nats, unreduced.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``beta`` is not above 0 or ``label_smoothing`` is a number outside [0, 1].

    Example:
        >>> print(f"{cpo(-8.0, -10.0, beta=0.5):.4f}")  # log(1 + exp(-1))
        0.3133

    Source: Xu et al. 2024 (arXiv:2401.08417).
    """
    chosen, rejected = as_float(chosen), as_float(rejected)
    nowhere = jnp.zeros_like(chosen), jnp.zeros_like(rejected)
    return dpo(chosen, rejected, *nowhere, beta=beta, label_smoothing=label_smoothing)


def _log_odds(mean: Array) -> Array:
    """``log(p / (1 - p))`` of ``p = exp(mean)``, continued along its tangent where ``p`` is 1 to float32."""
    inside = jnp.minimum(mean, MAX_MEAN_LOGPROB)
    complement = -jnp.expm1(inside)  # 1 - p; 1 - exp would lose every digit near p = 1
    return inside - jnp.log(complement) + (mean - inside) / complement
