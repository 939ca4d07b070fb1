"""The forward passes over a batch, and the one shift by one.

This is the only place where targets are shifted. A model reads token ``t - 1`` and predicts token ``t``; what comes
out is stored at ``t``, so that log-probabilities, values, masks and advantages all share the tokens' own index.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlhf_jax.models.heads import ValueHead
from rlhf_jax.types import Array, Model, Outputs, Params, SequenceBatch

ROLES = ("policy", "critic", "reward")


def forward(
    models: Mapping[str, Model | ValueHead],
    params: Params,
    batch: SequenceBatch,
    key: Array | None = None,
    *,
    temperature: float = 1.0,
) -> Outputs:
    """Run the models of a batch.

    Args:
        models: by role: ``policy`` gives log-probabilities and entropy, ``critic`` values, ``reward`` scores. A critic
            that is a ``ValueHead`` reads the policy's hidden states, so that both take one pass.
        params: by the same roles.
        batch: [B, K, S], packed or not.
        key: for the dropout of adapters that have one, in training; without it there is none.
        temperature: above 0; log-probabilities and entropy are those of ``softmax(logits / temperature)``, what a
            sampler at this temperature draws from.

    Returns:
        ``Outputs`` [B, K, S] (scores [B, K]), aligned with ``batch.tokens`` and 0 where a token has no predecessor;
        log-probabilities and entropy are made only where ``batch.mask`` is True, and are 0 elsewhere.

    Raises:
        ValueError: on a role that is not one of ``ROLES``, a ``ValueHead`` that is no critic beside a policy, or a
            temperature that is not above 0.
    """
    unknown = sorted(set(models) - set(ROLES))
    if unknown:
        raise ValueError(f"unknown role {unknown[0]!r}: roles are {', '.join(ROLES)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, as logits are divided by it, found {temperature}")
    trunks = _with_trunks(models)
    tokens, positions, segment_ids = _physical(batch)
    follows = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)

    def hidden_of(role: str) -> Array:
        model = trunks[role]
        drawn = (jax.random.fold_in(key, ROLES.index(role)),) if model.dropout and key is not None else ()
        return model.apply(params[role], tokens, positions, segment_ids, *drawn)

    def aligned(x: Array) -> Array:
        """Store what was computed at ``t - 1`` (first axis rows, second tokens) at ``t``, in the logical layout."""
        return _logical(jnp.pad(jnp.where(follows, x, 0.0), ((0, 0), (1, 0))), batch)

    out = Outputs()
    if "policy" in models:
        hidden = hidden_of("policy")
        # The last token of a row predicts nothing. To cut it off would be to copy the hidden states.
        wanted = jnp.pad(follows & _targets(batch)[:, 1:], ((0, 0), (0, 1)))
        logprobs, entropy = trunks["policy"].token_stats(
            params["policy"], hidden, jnp.roll(tokens, -1, axis=-1), temperature=temperature, mask=wanted
        )
        out = out._replace(logprobs=aligned(logprobs[:, :-1]), entropy=aligned(entropy[:, :-1]))
    if "critic" in models:
        if "critic" in trunks:
            hidden = hidden_of("critic")  # a value head reads the policy's, from above
        out = out._replace(values=aligned(models["critic"].values(params["critic"], hidden[:, :-1])))
    if "reward" in models:
        hidden = hidden_of("reward")
        scores = trunks["reward"].values(params["reward"], _last(hidden, batch))
        out = out._replace(scores=scores.reshape(batch.tokens.shape[:2]))
    return out


def _with_trunks(models: Mapping[str, Model | ValueHead]) -> dict[str, Model]:
    """The models that have a forward pass of their own: all but a critic that is a head on the policy."""
    trunks = {role: model for role, model in models.items() if not isinstance(model, ValueHead)}
    for role in models:
        if role not in trunks and (role != "critic" or "policy" not in trunks):
            raise ValueError(
                f"{role} is a ValueHead, which reads the hidden states of the policy: it can only be the critic, "
                f"beside a policy that has a forward pass; found {', '.join(models)}"
            )
    return trunks


def _physical(batch: SequenceBatch) -> tuple[Array, Array, Array]:
    """Rows as the forward pass sees them: packed rows, or one row a response."""
    if batch.packing is not None:
        return batch.packing.tokens, batch.packing.positions, batch.packing.segment_ids
    length = batch.tokens.shape[-1]
    return tuple(x.reshape(-1, length) for x in (batch.tokens, batch.positions, batch.segment_ids))  # type: ignore[return-value]


def _targets(batch: SequenceBatch) -> Array:
    """Which tokens of the physical rows are targets that count, bool."""
    if batch.packing is None:
        return batch.mask.reshape(-1, batch.mask.shape[-1])
    rows = batch.packing.tokens
    places = jnp.where(batch.mask & (batch.segment_ids > 0), batch.packing.places, rows.size)  # padding's place is 0
    return jnp.zeros(rows.size, bool).at[places.reshape(-1)].set(True, mode="drop").reshape(rows.shape)


def _logical(x: Array, batch: SequenceBatch) -> Array:
    """Per-token values of physical rows, in the objective's layout [B, K, S]."""
    if batch.packing is None:
        return x.reshape(batch.tokens.shape)
    return jnp.where(batch.segment_ids > 0, x.reshape(-1)[batch.packing.places], 0.0)


def _last(hidden: Array, batch: SequenceBatch) -> Array:
    """Hidden states [B * K, D] at each response's last real token, whichever side the padding is on."""
    shape = batch.tokens.shape
    last = shape[-1] - 1 - jnp.argmax((batch.segment_ids > 0)[..., ::-1], axis=-1)
    if batch.packing is None:
        flat = jnp.arange(shape[0] * shape[1]) * shape[-1] + last.reshape(-1)
    else:
        flat = jnp.take_along_axis(batch.packing.places, last[..., None], axis=-1).reshape(-1)
    return hidden.reshape(-1, hidden.shape[-1])[flat]
