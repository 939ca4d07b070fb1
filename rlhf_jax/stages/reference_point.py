"""KTO's reference point: how far the policy has moved on responses to *other* prompts, estimated in every batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import losses
from rlhf_jax.data import Example, pack
from rlhf_jax.models.forward import forward
from rlhf_jax.types import Array, Model, Params, SequenceBatch


def mismatched(batch: SequenceBatch, *, rows: int, row_length: int, pad_id: int) -> SequenceBatch:
    """Make a packed batch in which every prompt is followed by the next group's response.

    Args:
        batch: packed, of numpy arrays, [B, K, S].
        rows: packed rows of the batch.
        row_length: tokens of a row; a longer join is cut.
        pad_id: what fills empty places.

    Returns:
        [B, K, row_length]. Groups that do not fit, and one that is alone, are left out: the estimate is a mean, and the
        shapes stay the same.
    """
    real = np.asarray(batch.segment_ids) > 0
    mask, tokens = np.asarray(batch.mask), np.asarray(batch.tokens)
    present = np.flatnonzero(mask.any(-1).all(-1))
    if len(present) == 1:  # there is no other response than its own
        present = present[:0]
    joined = []
    for b, other in zip(present, np.roll(present, -1), strict=True):
        each = []
        for k in range(tokens.shape[1]):
            prompt = tokens[b, k][real[b, k] & ~mask[b, k]]
            each.append((np.concatenate([prompt, tokens[other, k][mask[other, k]]])[:row_length], len(prompt)))
        joined.append(Example(tuple(t for t, _ in each), tuple(start for _, start in each)))
    shape = {"rows": rows, "row_length": row_length, "length": row_length, "pad_id": pad_id}
    while True:
        try:
            return pack(joined, groups=tokens.shape[0], responses=tokens.shape[1], **shape)
        except ValueError:  # no room: one group fewer
            joined.pop()


def reference_point(model: Model, params: Params, reference: Params, batch: SequenceBatch) -> Array:
    """Estimate KTO's reference point on mismatched pairs, float32 [], nats; it carries no gradient.

    ``max(0, mean_i [log pi(y_j | x_i) - log pi_ref(y_j | x_i)])``

    Args:
        model: the policy's.
        params: the policy that is trained, by role.
        reference: the frozen policy, by role.
        batch: from ``mismatched``.

    Source: Ethayarajh et al. 2024, section 4.2 (arXiv:2402.01306).
    """
    new, old = (forward({"policy": model}, p, batch).logprobs for p in (params, reference))
    moved = losses.masked_sum(losses.k1(new, old), batch.mask, axis=-1)  # [B, K]
    return jax.lax.stop_gradient(jnp.maximum(losses.masked_mean(moved, batch.mask.any(-1)), 0.0))
