"""One batch for all objectives: prompts on the left, responses of different lengths, an empty group at the end."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.types import Loss, Outputs, SequenceBatch

MASK = np.zeros((3, 3, 5), bool)
MASK[0, 0, 1:3] = MASK[0, 1, 2:5] = MASK[0, 2, 1:2] = True
MASK[1, 0, 0:5] = MASK[1, 1, 2:4] = MASK[1, 2, [1, 4]] = True


@pytest.fixture
def batch() -> SequenceBatch:
    rng = np.random.default_rng(0)
    field = lambda: jnp.asarray(rng.normal(size=MASK.shape), jnp.float32)  # noqa: E731
    votes = rng.integers(0, 5, size=(3, 3, 3)).astype(np.float32)
    votes[0, 0, 1] = votes[0, 1, 0] = 0  # nobody compared these two
    votes[1, 0, 2] = votes[1, 2, 0] = 2  # a tie
    return SequenceBatch(
        tokens=jnp.asarray(rng.integers(9, size=MASK.shape)),
        mask=jnp.asarray(MASK),
        segment_ids=jnp.ones(MASK.shape, int),
        positions=jnp.broadcast_to(jnp.arange(5)[None, None], MASK.shape),
        votes=jnp.asarray(votes),
        old_logprobs=field() - 2,
        advantages=field(),
        returns=field(),
        old_values=field(),
    )


@pytest.fixture
def outputs(batch: SequenceBatch) -> Outputs:
    rng = np.random.default_rng(1)
    nudge = lambda: jnp.asarray(0.3 * rng.normal(size=MASK.shape), jnp.float32)  # noqa: E731
    return Outputs(
        logprobs=batch.old_logprobs + nudge(),
        entropy=jnp.abs(nudge()),
        values=batch.old_values + nudge(),
        scores=jnp.asarray(rng.normal(size=MASK.shape[:2]), jnp.float32),
    )


@pytest.fixture
def total() -> Callable[[Loss], jax.Array]:
    """Reduce a loss as the framework does."""

    def reduce(loss: Loss) -> jax.Array:
        numerator, denominator = loss.reduction(loss.values, loss.mask)
        return numerator / jnp.where(denominator == 0, 1, denominator)

    return reduce
