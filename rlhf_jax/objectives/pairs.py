"""What the objectives on preference pairs share: log-probabilities of the chosen and the rejected response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.objectives.fields import fixed, learned
from rlhf_jax.renamed import renamed
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch


class Pairs(NamedTuple):
    """One array [B] each; ``ref_*`` are zeros where the objective has no reference."""

    chosen: Array  # float32 [B]; log-probability of the chosen response, nats; the sum over its tokens, or their mean
    rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    counted: Array  # bool [B]; False where a response is empty
    chosen_length: Array  # float32 [B]; tokens, at least 1
    rejected_length: Array


def pairs(outputs: Outputs, batch: SequenceBatch, *, reference: bool = True, per_token: bool = False) -> Pairs:
    """Read the pairs of a batch; the chosen response comes first.

    Args:
        outputs: ``logprobs`` [B, 2, S].
        batch: ``mask`` and, with ``reference``, ``ref_logprobs``, each [B, 2, S].
        reference: read the reference's log-probabilities.
        per_token: averages over the response's tokens instead of sums.

    Returns:
        The log-probabilities of each pair.

    Raises:
        ValueError: when a field is missing or the groups are not pairs.
    """
    mask = batch.mask
    if mask.shape[1] != 2:
        raise ValueError(f"expected pairs (K = 2, the chosen response first), found groups of {mask.shape[1]}")
    reduce = losses.masked_mean if per_token else losses.masked_sum
    logprobs = reduce(learned(outputs.logprobs, "outputs.logprobs", mask), mask, axis=-1)  # [B, 2]
    ref = jnp.zeros_like(logprobs)
    if reference:
        ref = reduce(fixed(batch.ref_logprobs, "batch.ref_logprobs", mask), mask, axis=-1)
    lengths = jnp.maximum(jnp.sum(mask, axis=-1, dtype=jnp.float32), 1.0)
    counted = mask.any(-1).all(-1)
    return Pairs(logprobs[:, 0], logprobs[:, 1], ref[:, 0], ref[:, 1], counted, lengths[:, 0], lengths[:, 1])


def swapped(pairs: Pairs, where: Array) -> Pairs:
    """The pairs with chosen and rejected exchanged where ``where`` [B] is True."""
    other = Pairs(
        pairs.rejected,
        pairs.chosen,
        pairs.ref_rejected,
        pairs.ref_chosen,
        pairs.counted,
        pairs.rejected_length,
        pairs.chosen_length,
    )
    return Pairs(*(jnp.where(where, b, a) for a, b in zip(pairs, other, strict=True)))


def chosen_nll(pairs: Pairs) -> Array:
    """What supervised fine-tuning on the chosen response costs a token, [B], of pairs that hold sums; nats."""
    return -pairs.chosen / pairs.chosen_length


def implicit_rewards(pairs: Pairs, beta: float) -> tuple[Array, Array]:
    """``beta (s - s_ref)`` of the chosen and of the rejected response, each [B]."""
    return (
        losses.implicit_reward(pairs.chosen, pairs.ref_chosen, beta=beta),
        losses.implicit_reward(pairs.rejected, pairs.ref_rejected, beta=beta),
    )


def pair_loss(
    values: Array,
    pairs: Pairs,
    rewards: tuple[Array, Array],
    *,
    terms: Mapping[str, Array] = {},
    decided: Array | None = None,
) -> Loss:
    """A loss of one value a pair, with the metrics that all of these objectives log.

    Args:
        values: float32 [B].
        pairs: what they were computed from.
        rewards: the implicit rewards of the chosen and the rejected response, each [B].
        terms: what else to log of each pair, [B] each, like the parts that ``values`` is the sum of.
        decided: bool [B]; False where nobody can say which response is the chosen one: such a pair has a loss but
            stays out of the metrics.

    Returns:
        A loss averaged over the pairs. Metrics: ``accuracy`` (share of pairs whose chosen response has the higher
        implicit reward, ties half), ``reward_margin``, ``chosen_reward``, ``rejected_reward``, ``chosen_logprob``,
        ``rejected_logprob`` and the ``terms``.
    """
    margin = rewards[0] - rewards[1]
    logged = {
        "accuracy": (jnp.sign(margin) + 1) / 2,
        "reward_margin": margin,
        "chosen_reward": rewards[0],
        "rejected_reward": rewards[1],
        "chosen_logprob": pairs.chosen,
        "rejected_logprob": pairs.rejected,
        **terms,
    }
    shown = pairs.counted if decided is None else pairs.counted & decided
    return Loss(values, pairs.counted, losses.token_mean, {k: (v, shown) for k, v in logged.items()})


__getattr__ = renamed(__name__, {"turned": "objectives.pairs.swapped"})
