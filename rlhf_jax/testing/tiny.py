"""Models of a few thousand parameters and batches with every field filled: what tests run on, ours and the user's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models
from rlhf_jax.types import Model, Params, SequenceBatch

PAD, EOS, VOCAB = 0, 2, 32


def tiny_models(seed: int = 0) -> tuple[dict[str, Model], Params]:
    """Make a policy, a critic and a reward model of a few thousand parameters, with weights large enough to matter.

    Example:
        >>> roles, params = tiny_models()
        >>> sorted(roles), sorted(params)
        (['critic', 'policy', 'reward'], ['critic', 'policy', 'reward'])
    """
    size: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "n_kv_heads": 1,
        "head_dim": 8,
        "d_ff": 32,
    }
    roles, params = {}, {}
    for i, role in enumerate(("policy", "critic", "reward")):
        config = models.ModelConfig(**size, scalar_head=role != "policy")
        roles[role] = _build(config)
        key = jax.random.fold_in(jax.random.key(seed), i)
        init_key, head_key = jax.random.split(key)
        params[role] = jax.tree.map(lambda x: x * 4.0, jax.jit(roles[role].init)(init_key))
        if role != "policy":
            params[role]["head"]["kernel"] = jax.random.normal(head_key, (config.d_model, 1))
    return roles, params


_build = functools.cache(models.build)  # one model for one config, so that its programs are compiled once


def tiny_batch(groups: int = 8, responses: int = 2, length: int = 14, seed: int = 0) -> SequenceBatch:
    """Make a right-padded batch with every field filled: unequal lengths, end-of-sequence tokens that count.

    Prompts have at least 3 tokens and at least 2 columns of padding follow, so that an objective that reads one token
    too far can be told from one that does not look at the mask. ``kl`` is 0.3 throughout; ``kl_coef`` is left to
    controllers.

    Args:
        groups: B, groups of the batch.
        responses: K, responses to a prompt.
        length: S, tokens of a sequence; at least 9.
        seed: what everything drawn depends on.

    Raises:
        ValueError: if ``length`` is below 9.

    Example:
        >>> tiny_batch().tokens.shape
        (8, 2, 14)
    """
    if length < 9:
        raise ValueError(f"length must be at least 9, found {length}")
    rng = np.random.default_rng(seed)
    shape = (groups, responses, length)
    tokens = np.full(shape, PAD, np.int32)
    segment_ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for b in range(groups):
        prompt = rng.integers(3, VOCAB, size=rng.integers(3, 6))
        for k in range(responses):
            # The first groups are short and the last long, so that micro-batches hold unequal numbers of tokens.
            room = max(2, (length - 2 - len(prompt)) * (b + 1) // groups)
            response = rng.integers(3, VOCAB, size=rng.integers(1, room))
            row = np.concatenate([prompt, response, [EOS]])
            tokens[b, k, : len(row)] = row
            segment_ids[b, k, : len(row)] = 1
            mask[b, k, len(prompt) : len(row)] = True

    def normal(scale: float, *dims: int) -> np.ndarray:
        return (rng.normal(size=dims) * scale).astype(np.float32)

    votes = rng.integers(1, 9, size=(groups, responses, responses)).astype(np.float32) * (
        1 - np.eye(responses, dtype=np.float32)
    )
    logprobs = -np.abs(normal(1.0, *shape)) - 2.0
    fields: dict[str, Any] = dict(
        tokens=tokens,
        mask=mask,
        segment_ids=segment_ids,
        positions=np.maximum(np.cumsum(segment_ids, axis=-1) - 1, 0).astype(np.int32),
        label=rng.integers(0, 2, size=shape[:2]).astype(np.float32),
        rating=normal(2.0, *shape[:2]),
        reward=normal(1.0, *shape[:2]),
        votes=votes,
        old_logprobs=np.where(mask, logprobs, 0.0),
        ref_logprobs=np.where(mask, logprobs + normal(0.3, *shape), 0.0),
        advantages=np.where(mask, normal(1.0, *shape), 0.0),
        returns=np.where(mask, normal(1.0, *shape), 0.0),
        old_values=np.where(mask, normal(1.0, *shape), 0.0),
        kl=np.full(shape[:2], 0.3, np.float32),
        score=normal(1.0, *shape[:2]),
    )
    return SequenceBatch(**jax.tree.map(jnp.asarray, fields))
