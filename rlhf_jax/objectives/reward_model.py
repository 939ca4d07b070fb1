"""Reward modelling: scores whose differences predict how people vote."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.fields import required
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch


def reward_model(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    center: float = 0.0,
    margin: float = 0.0,
    theta: float | None = None,
) -> Loss:
    """Bradley-Terry on all pairs of each prompt's responses, averaged per prompt.

    ``L = mean_prompts mean_{i<j} -[p_ij log sigmoid(d) + (1 - p_ij) log sigmoid(-d)] + c (r_i + r_j)^2``, with
    ``d = r_i - r_j - s_ij margin`` and ``p_ij = votes_ij / (votes_ij + votes_ji)``; with ``theta``, Rao-Kupper:
    ``-log sigmoid(s_ij d - log theta)`` where there is a majority ``s_ij``, and where there is none
    ``-log [(theta^2 - 1) sigmoid(d - log theta) sigmoid(-d - log theta)]``

    K responses cost K forward passes and give K(K-1)/2 comparisons. They are averaged per prompt, because the pairs of
    one prompt are not independent: counted singly, a prompt with many responses would be learnt by heart first.
    Pairs that nobody voted on, and pairs with an empty response, do not count.

    Args:
        outputs: ``scores`` [B, K].
        batch: ``votes`` [B, K, K], entry [i, j] the votes that prefer i to j; ``mask`` [B, K, S].
        center: weight of the term that ties down the level of the scores; 0, or about 0.01 (Eisenstein et al. 2023).
            The same for every pair that counts, tied or not.
        margin: how much better a response that won the majority must score (``s_ij`` is the sign of the majority, 0 in
            a tie, which has no margin); usually 0, up to 3 for hard labels (Touvron et al. 2023). With ``theta`` it
            comes on top of ``log theta``.
        theta: None takes the votes as shares, a tie being half a vote for either. A number makes the tie a third
            outcome, and every other pair a hard label of its majority, however narrow; at least 1, which leaves no room
            for ties, usually 1.1 to 3 (about 2 where one comparison in three of equals is a tie).

    Returns:
        Per-pair losses [B, K * K], reduced by ``losses.sequence_mean``. Metrics: ``accuracy`` (a pair is right when the
        scores order it as the majority does, half right when they are equal; ties of the votes are left out),
        ``reward_mean``, and ``reward_margin`` (how far the majority's response scores above the other one).

    Raises:
        ValueError: if ``outputs.scores`` or ``batch.votes`` is missing, ``center`` or ``margin`` is negative, or
            ``theta`` below 1.

    Example:
        >>> ones = jnp.ones((1, 2, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, votes=jnp.array([[[0.0, 1.0], [0.0, 0.0]]]))
        >>> loss = reward_model(Outputs(scores=jnp.array([[0.0, 0.0]])), batch)
        >>> numerator, denominator = loss.reduction(loss.values, loss.mask)
        >>> print((numerator / denominator).round(4))  # log 2
        0.6931

    Source: Ouyang et al. 2022, eq. 1 (arXiv:2203.02155); soft labels: Christiano et al. 2017, section 2.2.3
    (arXiv:1706.03741); ties: Rao & Kupper 1967.
    """
    check_range("center", center, at_least=0)
    check_range("margin", margin, at_least=0)
    warn_outside("center", center, 0.0, 0.1, "Eisenstein et al. 2023")
    warn_outside("margin", margin, 0.0, 3.0, "Touvron et al. 2023")
    if theta is not None:
        check_range("theta", theta, at_least=1)
        warn_outside("theta", theta, 1.0, 5.0, "Rao & Kupper 1967")
    votes = jax.lax.stop_gradient(required(batch.votes, "batch.votes"))  # [B, K, K]
    present = batch.mask.any(-1)  # [B, K]
    scores = losses.masked_fill(required(outputs.scores, "outputs.scores"), present)

    responses = scores.shape[1]
    against = jnp.swapaxes(votes, 1, 2)
    counted = (
        jnp.triu(jnp.ones((responses, responses), bool), k=1)[None]
        & (votes + against > 0)
        & present[:, :, None]
        & present[:, None, :]
    )
    preference = jnp.where(counted, votes / jnp.where(counted, votes + against, 1), 0.5)  # a tie where nothing counts
    majority = jnp.sign(preference - 0.5)
    decided = majority != 0
    first, second = (jnp.broadcast_to(x, votes.shape) for x in (scores[:, :, None], scores[:, None, :]))
    agreement = majority * (first - second)
    if theta is None:
        values = losses.bradley_terry(first, second, preference=preference, margin=majority * margin, center=center)
    else:
        gap = jnp.where(
            decided, agreement - margin, first - second
        )  # the winner's lead over the loser, if there is one
        values = losses.rao_kupper(gap, jnp.zeros_like(gap), tie=counted & ~decided, theta=theta)
        values = values + center * jnp.square(first + second)

    metrics = {
        "accuracy": (_pairs((jnp.sign(agreement) + 1) / 2), _pairs(decided)),
        "reward_mean": (scores, present),
        "reward_margin": (_pairs(agreement), _pairs(decided)),
    }
    return Loss(_pairs(values), _pairs(counted), losses.sequence_mean, metrics)


def _pairs(x: Array) -> Array:
    """Lay a prompt's pairs out along one axis, the one that ``sequence_mean`` averages: [B, K, K] -> [B, K * K]."""
    return x.reshape(x.shape[0], -1)
