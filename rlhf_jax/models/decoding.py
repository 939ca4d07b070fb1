"""Decoding: weights as it wants them (a layer's matrices each for itself, in the compute type), and what runs on them.

Every token reads all weights once. Off a stack, or from a wider type, they would be copied first, at every token.

In 8 bits, weights are those of ``quantise``, the form of a frozen trunk under adapters: one rounding for both, and no
second library. Adapters stay beside them, since what they change is smaller than a step of the rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.depth import unstack
from rlhf_jax.models.int8_cache import compress_cache
from rlhf_jax.models.lora import quantise_blocks
from rlhf_jax.models.lora_fold import merge
from rlhf_jax.models.transformer import Transformer
from rlhf_jax.types import Array, Cache, Decode, LayOut, MakeCache, Params, Prefill

_TABLES = ("embedding", "position_embedding", "unembedding", "kernel")


class Decoding(NamedTuple):
    """The functions of a ``Model`` that decoding takes."""

    lay_out: LayOut
    cache: MakeCache
    prefill: Prefill
    decode: Decode


def make_decoding(config: ModelConfig, *, int8_weights: bool = False, int8_cache: bool = False) -> Decoding:
    """Make the functions that decode with a model.

    Args:
        config: the model's.
        int8_weights: ``lay_out`` rounds the blocks' matrices to 8 bits.
        int8_cache: keys and values are kept in 8 bits.
    """
    config = dataclasses.replace(config, scalar_head=False)
    laid_config = dataclasses.replace(config, int8=config.int8 or int8_weights)
    if not laid_config.int8:  # adapters are folded in, but not into 8-bit matrices
        laid_config = dataclasses.replace(laid_config, lora=LoRAConfig())

    @functools.cache
    def graph() -> Any:  # only who decodes pays for it: it has every block
        return nnx.split(nnx.eval_shape(lambda: Transformer(laid_config, nnx.Rngs(0), apart=True)))[0]

    def kept(cache: Cache) -> Cache:
        return compress_cache(cache) if int8_cache else cache

    def lay_out(params: Params) -> Params:
        if laid_config.int8:
            params = {**params, "blocks": quantise_blocks(params["blocks"])}
        return lay_out_for_decoding(laid_config if laid_config.int8 else config, params)

    def cache(batch: int, length: int) -> Cache:
        shape = (batch, config.n_kv_heads, length, config.head_dim)
        k, v = (tuple(jnp.zeros(shape, config.compute_dtype) for _ in range(config.n_layers)) for _ in range(2))
        return kept(Cache(k, v, jnp.zeros((batch,), jnp.int32)))

    def prefill(laid: Params, tokens: Array, lengths: Array) -> tuple[Array, Cache]:
        logits, filled = nnx.merge(graph(), laid).prefill(tokens, lengths)
        return logits, kept(filled)

    def decode(laid: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        return nnx.merge(graph(), laid).decode(tokens, cache)

    return Decoding(lay_out, cache, prefill, decode)


def lay_out_for_decoding(config: ModelConfig, params: Params) -> Params:
    """Take the blocks off their stack, fold adapters in, and bring matrices to the compute type.

    Args:
        config: the model's. Beside matrices in 8 bits adapters stay as they are.
        params: its weights.

    Returns:
        The weights with ``blocks`` by number; norms, biases and the scales of 8-bit matrices stay in float32.
    """
    if not config.int8:
        config, params = merge(config, params)

    def cast(path: Any, leaf: Array) -> Array:
        held = leaf.dtype == "int8" or path[-1].key not in _TABLES
        return leaf if held else leaf.astype(config.compute_dtype)

    laid = jax.tree_util.tree_map_with_path(cast, {name: x for name, x in params.items() if name != "head"})
    blocks = jax.tree.map(lambda x: x[: config.n_layers], laid["blocks"])
    return {**laid, "blocks": dict(enumerate(unstack(blocks, config.n_layers)))}
