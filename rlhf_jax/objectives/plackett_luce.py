"""Reward modelling on rankings: scores under which the order people gave is likely."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range, warn_outside
from rlhf_jax.objectives.fields import learned, required
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch


def plackett_luce(outputs: Outputs, batch: SequenceBatch, *, center: float = 0.0) -> Loss:
    """Plackett-Luce on each prompt's responses, ranked by their share of votes.

    ``L = mean_prompts -sum_k [r_(k) - logsumexp_{j >= k} r_(j)] + c (2 mean_k r_k)^2``, where ``(k)`` is the response
    with the k-th highest count ``sum_j votes_kj / (votes_kj + votes_jk)``

    The count is Borda's: a response gets from each other one the share of votes that preferred it, and half where
    nobody compared the two. Empty responses, and those that were compared with no other, are not ranked, and a prompt
    counts if two of its responses are. Equal counts are no order: the loss is then the mean over two orders, in which
    responses of equal count come as they lie in the batch and the other way round.

    Args:
        outputs: ``scores`` [B, K].
        batch: ``votes`` [B, K, K], entry [i, j] the votes that prefer i to j; ``mask`` [B, K, S]. No gradient flows
            into them.
        center: weight of the term that ties down the level of the scores; 0, or about 0.01 (Eisenstein et al. 2023).
            With K = 2 it is that of ``reward_model``.

    Returns:
        One loss a prompt, [B], nats, reduced by ``losses.token_mean``. Metrics: ``accuracy`` (share of pairs of
        different counts that the scores order alike, half right when the scores are equal) and ``reward_mean``.

    Raises:
        ValueError: if ``outputs.scores`` or ``batch.votes`` is missing, K < 2, or ``center`` is negative.

    Example:
        >>> ones = jnp.ones((1, 3, 1), int)
        >>> votes = jnp.array([[[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]])  # counts 1.5, 7/6, 1/3
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, votes=votes)
        >>> loss = plackett_luce(Outputs(scores=jnp.array([[0.0, 0.0, -100.0]])), batch)
        >>> print(loss.values.round(4))  # the first two are a toss-up, the last is clear: log 2
        [0.6931]

    Source: Plackett 1975; Luce 1959; rankings of K responses: Ouyang et al. 2022 (arXiv:2203.02155).
    """
    check_range("center", center, at_least=0)
    warn_outside("center", center, 0.0, 0.1, "Eisenstein et al. 2023")
    if batch.mask.shape[1] < 2:
        raise ValueError(f"expected groups of two responses or more, found groups of {batch.mask.shape[1]}")
    present = batch.mask.any(-1)  # [B, K]
    scores = learned(outputs.scores, "outputs.scores", present)
    count, ranked = _borda(jax.lax.stop_gradient(required(batch.votes, "batch.votes")), present)

    best_first = jnp.argsort(-count, axis=-1)  # those that are not ranked come last
    back_to_front = jnp.flip(jnp.argsort(count, axis=-1), -1)  # the same, but for equal counts
    values = jnp.zeros_like(scores[:, 0])
    for order in (best_first, back_to_front):
        in_order, there = (jnp.take_along_axis(x, order, axis=-1) for x in (scores, ranked))
        values = values + losses.plackett_luce(in_order, mask=there) / 2
    values = values + center * jnp.square(2 * losses.masked_mean(scores, ranked, axis=-1))

    better = ranked[:, :, None] & ranked[:, None, :] & (count[:, :, None] > count[:, None, :])
    right = (jnp.sign(scores[:, :, None] - scores[:, None, :]) + 1) / 2
    metrics = {"accuracy": (right, better), "reward_mean": (scores, present)}
    return Loss(values, ranked.sum(-1) > 1, losses.token_mean, metrics)


def _borda(votes: Array, present: Array) -> tuple[Array, Array]:
    """Borda counts [B, K], -1 where a response is not ranked, and which are [B, K]."""
    responses = votes.shape[-1]
    others = present[:, :, None] & present[:, None, :] & ~jnp.eye(responses, dtype=bool)[None]
    total = votes + jnp.swapaxes(votes, 1, 2)
    compared = others & (total > 0)
    ranked = compared.any(-1)
    share = jnp.where(compared, votes / jnp.where(compared, total, 1), 0.5)
    count = losses.masked_sum(share, others & ranked[:, None, :], axis=-1)
    # Rounded, as 1/3 + 2/3 and 1/2 + 1/2 are the same count, but not always the same float.
    return jnp.where(ranked, jnp.round(count, 4), -1), ranked
