"""The same batch in another form: noise where nobody may look, more padding, packed, in parts, on many devices.

An objective must not notice most of these; the others show which token it looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import parallel
from rlhf_jax.data.packing import Example, pack
from rlhf_jax.testing.tiny import PAD
from rlhf_jax.types import Array, Outputs, Params, SequenceBatch


def disturbed(x: Any, where: Array, *, seed: int) -> Any:
    """Add noise to every float per token of outputs or a batch; each field has its own, so that no two cancel."""
    rng, there = np.random.default_rng(seed), np.asarray(where)

    def noisy(v: Any) -> Any:
        noise = np.where(there, rng.normal(0.0, 3.0, there.shape), 0.0).astype(np.float32)
        return v + noise if isinstance(v, Array) and v.shape == there.shape and v.dtype == jnp.float32 else v

    return type(x)(*(noisy(v) for v in x))


def padded(batch: SequenceBatch, *, left: int = 0, right: int = 0) -> SequenceBatch:
    """Add padding columns to the batch; per-token arrays grow with it."""

    def grow(x: Array) -> Array:
        if x.shape != batch.tokens.shape:
            return x
        return jnp.pad(x, ((0, 0), (0, 0), (left, right)))

    return jax.tree.map(grow, batch)


def packed(batch: SequenceBatch) -> SequenceBatch:
    """Pack the batch, so that its responses share physical rows."""
    groups, responses, length = batch.tokens.shape
    tokens, real, mask = (np.asarray(x) for x in (batch.tokens, batch.segment_ids > 0, batch.mask))
    examples = [
        Example(
            tuple(tokens[b, k][real[b, k]] for k in range(responses)),
            tuple(int(np.argmax(mask[b, k])) for k in range(responses)),
            None,
        )
        for b in range(groups)
    ]
    rows = -(-groups * responses * 3 // 4)
    together = pack(
        examples, rows=rows, row_length=2 * length, groups=groups, responses=responses, length=length, pad_id=PAD
    )
    return batch._replace(packing=jax.tree.map(jnp.asarray, together.packing))


def micro_batches(batch: SequenceBatch, parts: int = 4) -> tuple[SequenceBatch, ...]:
    """Cut the batch along its groups into equal parts."""
    size = batch.tokens.shape[0] // parts
    return tuple(jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], batch) for i in range(parts))


def on_mesh(evaluate: Callable[..., Any], params: Params, batch: SequenceBatch) -> Any:
    """Compute loss and gradient with the batch spread over as many devices as divide it."""
    count = max(n for n in range(1, len(jax.devices()) + 1) if batch.tokens.shape[0] % n == 0)
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:count])
    spread = parallel.put(batch, parallel.batch_shardings(batch, mesh))
    copied = parallel.put(params, jax.tree.map(lambda _: parallel.replicated(mesh), params))
    return jax.device_get(evaluate(copied, spread))


def with_last_token(batch: SequenceBatch, token: int) -> SequenceBatch:
    """Give the last token that counts one id in every response, as only the objective sees it."""
    number = jnp.cumsum(batch.mask, axis=-1)
    last = batch.mask & (number == number[..., -1:])
    return batch._replace(tokens=jnp.where(last, token, batch.tokens))


def unused(batch: SequenceBatch) -> int:
    """Find an id that no token has."""
    return int(jnp.max(batch.tokens)) + 1


def before_the_first_update(outputs: Outputs, batch: SequenceBatch) -> Outputs:
    """Move outputs close to those that the batch was prepared with, where clipping hides no token from the loss."""
    rng = np.random.default_rng(1)

    def near(x: Array, old: Array | None) -> Array:
        return x if old is None else old + (0.02 * rng.normal(size=x.shape)).astype(np.float32)

    return outputs._replace(
        logprobs=near(outputs.logprobs, batch.old_logprobs), values=near(outputs.values, batch.old_values)
    )
