"""What was sampled, as a batch to train on and as the token ids of each response."""

from __future__ import annotations

import numpy as np

from rlhf_jax import processes
from rlhf_jax.types import Rollout, SequenceBatch


def as_batch(sampled: Rollout) -> SequenceBatch:
    """A rollout as a batch of sequences: the response tokens are the targets."""
    return SequenceBatch(sampled.tokens, sampled.mask, sampled.segment_ids, sampled.positions)


def response_tokens(sampled: Rollout) -> list[np.ndarray]:
    """The token ids of every response, ``[B, K]`` flattened, end-of-sequence token included."""
    tokens, mask = processes.fetch((sampled.tokens, sampled.mask))
    flat_tokens, flat_mask = (x.reshape(-1, x.shape[-1]) for x in (tokens, mask))
    return [t[m] for t, m in zip(flat_tokens, flat_mask, strict=True)]
