"""Ensembles of reward models: every leaf is stacked, [M, ...], except in a frozen trunk that the members share."""

from __future__ import annotations

from typing import Any

import jax

from rlhf_jax.models.forward import forward
from rlhf_jax.models.lora import join, split
from rlhf_jax.types import Array, Model, Params, SequenceBatch


def members(params: Params) -> int:
    """Count the reward models that are stacked in parameters with a scalar head; 0 when it is a single one.

    Example:
        >>> import jax.numpy as jnp
        >>> members({"head": {"kernel": jnp.zeros((3, 8, 1))}}), members({"head": {"kernel": jnp.zeros((8, 1))}})
        (3, 0)
    """
    kernel = params["head"]["kernel"]
    return int(kernel.shape[0]) if kernel.ndim == 3 else 0


def member(params: Params, index: int) -> Params:
    """Take one model out of an ensemble; a trunk that all members share comes as it is."""
    trained, frozen = split(params)
    return join(jax.tree.map(lambda x: x[index], trained), frozen)


def member_axes(params: Params) -> Any:
    """Make the axes for ``jax.vmap`` over an ensemble: 0 for what is stacked, [M, ...], None for a shared trunk."""
    trained, frozen = split(params)
    return join(jax.tree.map(lambda _: 0, trained), jax.tree.map(lambda _: None, frozen))


def member_scores(model: Model, params: Params, batch: SequenceBatch) -> Array:
    """Score a batch with every member of a reward model, float32 [M, B, K]; M is 1 for a single one."""
    if not members(params):
        return forward({"reward": model}, {"reward": params}, batch).scores[None]
    axes = member_axes(params)
    return jax.vmap(lambda p: forward({"reward": model}, {"reward": p}, batch).scores, (axes,))(params)


def member_values(model: Model, params: Params, rows: SequenceBatch) -> Array:
    """What every member's scalar head says at every token of packed rows [r, 1, L]: float32 [r, L, M].

    Unlike a critic's values, which are stored beside the token after, these stand at the token that was read: at the
    last one of a response it is its score.
    """
    tokens, positions, segment_ids = (x[:, 0] for x in (rows.tokens, rows.positions, rows.segment_ids))

    def values(p: Params) -> Array:
        return model.values(p, model.apply(p, tokens, positions, segment_ids))

    if not members(params):
        return values(params)[..., None]
    return jax.vmap(values, (member_axes(params),), out_axes=-1)(params)
