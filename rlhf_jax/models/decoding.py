"""Weights and caches as decoding wants them: a layer each for itself, in the type that the model computes in.

Every token reads all weights once. Off a stack, or from a wider type, they would be copied first, at every token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import HEADS, by_rows, one_device, platform, shares_known
from rlhf_jax.models.attention import Decoding, chosen_for_decoding, laid
from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.depth import unstack
from rlhf_jax.models.joined import join_matrices
from rlhf_jax.models.lora_fold import merge
from rlhf_jax.types import Array, Cache, Params

_TABLES = ("embedding", "position_embedding", "unembedding", "kernel")


def decoding_config(config: ModelConfig) -> ModelConfig:
    """Say what a model is once it is laid out for decoding: adapters are folded in, but not into 8-bit matrices."""
    if config.int8:
        return dataclasses.replace(config, scalar_head=False)
    return dataclasses.replace(config, scalar_head=False, lora=LoRAConfig())


def lay_out_for_decoding(config: ModelConfig, params: Params) -> Params:
    """Take the blocks off their stack, fold adapters in, and bring matrices to the compute type.

    Args:
        config: the model's.
        params: its weights.

    Returns:
        The weights of ``decoding_config(config)`` with ``blocks`` by number; norms, biases and the scales of 8-bit
        matrices stay in float32. For one GPU matrices of the same input are one (``models/joined.py``).
    """
    if not config.int8:
        config, params = merge(config, params)

    def cast(path: Any, leaf: Array) -> Array:
        held = leaf.dtype == "int8" or path[-1].key not in _TABLES
        return leaf if held else leaf.astype(config.compute_dtype)

    apart = jax.tree_util.tree_map_with_path(cast, {name: x for name, x in params.items() if name != "head"})
    blocks = jax.tree.map(lambda x: x[: config.n_layers], apart["blocks"])
    if platform() == "gpu" and one_device() and not config.int8:
        blocks = join_matrices(blocks)
    return {**apart, "blocks": dict(enumerate(unstack(blocks, config.n_layers)))}


def decoding_kind(config: ModelConfig) -> Decoding:
    """Choose how a model attends over its cache, and so how the cache lies, when a program is traced."""
    return chosen_for_decoding(
        config.attention,
        platform=platform(),
        dtype=config.compute_dtype,
        head_dim=config.head_dim,
        cap=config.attention_softcap,
        shares_known=shares_known(),
    )


def empty_cache(config: ModelConfig, rows: int, columns: int) -> Cache:
    """Make a cache of so many rows and columns in which no token is held yet."""
    zeros = by_rows(jnp.zeros((rows, columns, config.n_kv_heads, config.head_dim), config.compute_dtype), None, HEADS)
    kind = decoding_kind(config)
    k, v = (tuple(laid(zeros, kind) for _ in range(config.n_layers)) for _ in range(2))
    return Cache(k, v, jnp.zeros((rows,), jnp.int32))
