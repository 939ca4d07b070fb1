"""The functions that decode with a model, as it is or in 8 bits.

In 8 bits, weights are those of ``quantise``, the form of a frozen trunk under adapters: one rounding for both, and no
second library. Adapters stay beside them, since what they change is smaller than a step of the rounding.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from flax import nnx

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.decoding import decoding_config, decoding_kind, empty_cache, lay_out_for_decoding
from rlhf_jax.models.int8_cache import compress_cache
from rlhf_jax.models.joined import is_joined
from rlhf_jax.models.lora import quantise_blocks
from rlhf_jax.models.transformer import Transformer
from rlhf_jax.types import Array, Cache, Decode, LayOut, MakeCache, Params, Prefill


class Decoder(NamedTuple):
    """The functions of a ``Model`` that decoding takes."""

    lay_out: LayOut
    cache: MakeCache
    prefill: Prefill
    decode: Decode


def make_decoder(config: ModelConfig, *, int8_weights: bool = False, int8_cache: bool = False) -> Decoder:
    """Make the functions that decode with a model.

    Args:
        config: the model's.
        int8_weights: ``lay_out`` rounds the blocks' matrices to 8 bits.
        int8_cache: keys and values are kept in 8 bits.
    """
    config = dataclasses.replace(config, int8=config.int8 or int8_weights)
    laid_config = decoding_config(config)

    @functools.cache
    def graph(joined: bool) -> Any:  # only who decodes pays for it: it has every block
        apart = nnx.eval_shape(lambda: Transformer(laid_config, nnx.Rngs(0), apart=True, joined=joined))
        return nnx.split(apart)[0]

    def bind(laid: Params) -> Transformer:
        return nnx.merge(graph(is_joined(laid["blocks"])), laid)

    def kept(cache: Cache) -> Cache:
        return compress_cache(cache, decoding_kind(config)) if int8_cache else cache

    def lay_out(params: Params) -> Params:
        if config.int8:
            params = {**params, "blocks": quantise_blocks(params["blocks"])}
        return lay_out_for_decoding(config, params)

    def cache(batch: int, length: int) -> Cache:
        return kept(empty_cache(config, batch, length))

    def prefill(laid: Params, tokens: Array, lengths: Array) -> tuple[Array, Cache]:
        logits, filled = bind(laid).prefill(tokens, lengths)
        return logits, kept(filled)

    def decode(laid: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        return bind(laid).decode(tokens, cache)

    return Decoder(lay_out, cache, prefill, decode)
