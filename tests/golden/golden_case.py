"""What both sides are given, tiny models, prompts and responses that our sampler drew, and how they are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models
from rlhf_jax.data import Tokenizer, train_tokenizer
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.stages import EncodedPrompt, LoadedModel
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Params, Rollout, SequenceBatch

TOLERANCE = 1e-5
PROMPTS = ("the cat", "a", "one dog sat", "owl", "the hen or", "two", "that bee", "an elk ran")
LLAMA = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 32, "max_length": 64}
GPT2: dict[str, Any] = {
    **{"family": "gpt2", "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 64},
    **{"max_length": 64, "positions": "learned", "norm": "layer", "activation": "gelu_tanh", "gated_mlp": False},
    **{"qkv_bias": True, "out_bias": True, "mlp_bias": True},
}


def constant(rate: float) -> OptimizerConfig:
    """AdamW at one rate, as both sides have it.

    A step is the rate times ``g / (|g| + eps)``: with the usual eps of 1e-8 rounding alone would decide where entries
    without a gradient to speak of go. 1e-5 is what the code of Ziegler et al. had.
    """
    return OptimizerConfig(
        learning_rate=rate, warmup_fraction=0.0, final_fraction=1.0, b2=0.999, eps=1e-5, max_grad_norm=None
    )


UNSHAPED = ShapingConfig(normalise=False, clip=1e9, no_eos_penalty=0.0)


def tokenizer() -> Tokenizer:
    """Bytes and three special tokens; padding is a token of its own, as TRL makes its masks of it."""
    made = train_tokenizer(PROMPTS, 259)
    assert made.pad_id not in made.end_ids
    return made


def model(sizes: dict[str, Any], *, seed: int, like: LoadedModel | None = None, **fields: Any) -> LoadedModel:
    """Random weights, large enough that every part of the network matters.

    Args:
        sizes: of the config.
        seed: of the weights.
        like: another model, of which these weights are a neighbour.
        fields: of the config.
    """
    config = models.ModelConfig(vocab_size=tokenizer().vocab_size, **sizes, **fields)
    key = jax.random.key(seed)
    params = models.build(config).init(key) if like is None else like.params
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
    scale = 0.1 if like is None else 0.03
    moved = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return LoadedModel(config, tree.unflatten(moved))


def prompts(own: Tokenizer, texts: Sequence[str] = PROMPTS) -> list[EncodedPrompt]:
    """The prompts, of unequal lengths."""
    return [EncodedPrompt(text, own.encode_prompt(text), i) for i, text in enumerate(texts)]


def ended(sampled: Rollout, lengths: Sequence[int], own: Tokenizer) -> Rollout:
    """The same responses, each ended by the end-of-sequence token after so many; 0 leaves one as it is.

    Args:
        sampled: responses [B, K, P + R].
        lengths: tokens of each response, the end included, B * K of them.
        own: knows the tokens.
    """
    tokens, mask, finished = (np.array(x) for x in (sampled.tokens, sampled.mask, sampled.finished))
    first = int(np.flatnonzero(mask.any((0, 1)))[0])
    for row, length in zip(np.ndindex(finished.shape), lengths, strict=True):
        if length:
            tokens[row][first + length - 1] = own.eos_id
            tokens[row][first + length :] = own.pad_id
            mask[row][first + length :] = False
            finished[row] = True
    real = np.where(np.arange(tokens.shape[-1]) < first, np.asarray(sampled.segment_ids), mask)
    fields = {"segment_ids": real, "positions": np.asarray(sampled.positions) * real}
    fields = {"tokens": tokens, "mask": mask, "finished": finished, "logprobs": sampled.logprobs * mask, **fields}
    typed = {name: jnp.asarray(x, getattr(sampled, name).dtype) for name, x in fields.items()}
    return sampled._replace(**typed)


def write(
    folder: Path,
    sampled: Rollout,
    orders: np.ndarray,
    made: dict[str, tuple[models.ModelConfig, Params]],
    own: Tokenizer,
    extra: dict[str, np.ndarray] | None = None,
    **config: Any,
) -> None:
    """Write the case for the other side.

    Args:
        folder: where.
        sampled: the responses [B, K, P + R].
        orders: int [epochs, B * K], the order of each epoch.
        made: each model's config and weights, by the name of its folder.
        own: knows the special tokens.
        extra: more arrays that the other side is given.
        config: fields of TRL's config.
    """
    tokens, real = (np.asarray(x) for x in (sampled.tokens, sampled.segment_ids))
    rows = np.where(real > 0, tokens, own.pad_id).reshape(-1, tokens.shape[-1])
    first = int(np.flatnonzero(np.asarray(sampled.mask).any((0, 1)))[0])
    np.savez(folder / "given.npz", queries=rows[:, :first], responses=rows[:, first:], orders=orders, **(extra or {}))
    for name, (model_config, params) in made.items():
        models.save_pretrained(folder / name, model_config, params, tokenizer=own)
    (folder / "case.json").write_text(json.dumps({"pad": own.pad_id, "eos": own.eos_id, "config": config}))


def responses_of(x: Any, batch: SequenceBatch) -> np.ndarray:
    """The response columns of an array [B, K, P + R], with 0 behind the mask: [B * K, R]."""
    mask = np.asarray(batch.mask)
    first = int(np.flatnonzero(mask.any((0, 1)))[0])
    return np.where(mask, np.asarray(x), 0).reshape(-1, mask.shape[-1])[:, first:]


def apart(ours: Params, theirs: Params) -> float:
    """The largest difference between two trees of weights."""
    found = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()), ours, theirs
    )
    return max(jax.tree.leaves(found))


def close(name: str, ours: Any, theirs: Any) -> None:
    """Assert that two arrays agree, and that there is something to compare."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    # Relative where a number is above 1, as in tests/parity: float32 has no more digits of a ratio of 2.
    off, largest = (np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)).max(), np.abs(theirs).max()
    print(f"{name}: largest {largest:.4g}, off by {off:.1e}")
    assert largest > 0, f"{name}: nothing is compared"
    assert off <= TOLERANCE, f"{name}: off by {off:.1e}"
