"""A rollout by arithmetic: weights laid out, prompts prefilled, tokens written one a row, on one device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.plan.activations import Rows, row_shares, vocabulary_share
from rlhf_jax.stages.plan.passes import Cost, forward_cost
from rlhf_jax.stages.plan.weights import leaves_of, ring


def laid_out(config: ModelConfig, params: Any, sampling: SamplingConfig) -> Any:
    """Give the shapes of weights as decoding holds them: adapters folded in, matrices in the compute type or 8 bits.

    They are left on their stack, which changes no byte.

    Args:
        config: the model's.
        params: shapes with shardings, trunk and adapters together.
        sampling: how tokens are drawn.
    """
    whole = "int8" if sampling.int8 != "none" else config.compute_dtype

    def cast(path: Any, leaf: Any) -> Any:
        name = parallel.path_name(path)
        if not name.endswith(("kernel", "embedding")) or leaf.dtype == jnp.int8:
            return leaf
        dtype = whole if "blocks/" in name else config.compute_dtype
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    kept = jax.tree_util.tree_map_with_path(cast, {name: x for name, x in params.items() if name != "head"})
    return kept if config.int8 else _without_adapters(kept)


def _without_adapters(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {name: _without_adapters(x) for name, x in tree.items() if name not in ("lora_a", "lora_b")}


def cache_bytes(config: ModelConfig, rows: int, columns: int, sampling: SamplingConfig, mesh: AbstractMesh) -> float:
    """Count the bytes of a cache on one device.

    ``rows columns layers 2 kv_heads head_dim size``, shared over rows and heads

    Args:
        config: the model's.
        rows: those that are decoded at once.
        columns: tokens that each has room for.
        sampling: whether the cache is in 8 bits, with a float32 scale a column and head.
        mesh: the devices.
    """
    wide = float(jnp.dtype(config.compute_dtype).itemsize)
    size = 1 + 4 / config.head_dim if sampling.int8 == "weights_and_cache" else wide
    heads = mesh.shape["tensor"] if config.n_kv_heads % mesh.shape["tensor"] == 0 else 1
    numbers = rows * columns * config.n_layers * 2 * config.n_kv_heads * config.head_dim
    return numbers * size / (row_shares(mesh, rows) * heads)


def lay_out_cost(config: ModelConfig, params: Any, laid: Any) -> Cost:
    """Count laying the weights out: read once, written once, and nothing sent."""
    held = parallel.device_bytes(laid)
    return Cost(0.0, float(parallel.device_bytes(params) + held), {}, {})


def prefill_cost(config: ModelConfig, laid: Any, prompts: int, columns: int, mesh: AbstractMesh) -> Cost:
    """Count a pass over the prompts, which gives logits at their last tokens alone."""
    rows = Rows(prompts, columns, float(prompts * columns), columns, float(prompts))
    found = forward_cost(config, laid, rows, mesh)
    logits = prompts / row_shares(mesh, prompts) * vocabulary_share(config, mesh) * 4
    memory = {**found.memory, "logits and output matrix": int(logits)}
    return found._replace(memory=memory)


def decode_cost(
    config: ModelConfig, laid: Any, rows: int, prompt: int, sampling: SamplingConfig, mesh: AbstractMesh
) -> Cost:
    """Count writing all tokens of all responses; every step reads the weights that lie on the device, and the cache.

    Tokens go to the weights and not weights to the tokens (``models.ambient.by_width``): a product over a shared width
    is summed over the devices that share it.

    Args:
        config: the model's.
        laid: from ``laid_out``.
        rows: responses, all of full length.
        prompt: tokens of a prompt.
        sampling: how tokens are drawn.
        mesh: the devices.
    """
    new, at_once = sampling.max_new_tokens, min(sampling.slots or rows, rows)
    turns = rows / at_once  # rounds of so many rows, where slots are fewer than responses
    shares, tensor = row_shares(mesh, at_once), mesh.shape["tensor"]
    flops = costs.decode_flops(config, rows, prompt, new) / (shares * tensor)
    more = vocabulary_share(config, mesh) - config.vocab_size / tensor  # words that the tensor axis does not divide
    flops += 2 * config.d_model * more * rows * new / shares
    held = cache_bytes(config, at_once, prompt + new, sampling, mesh)
    seen = costs.decode_bytes(config, at_once, prompt, new, weight_size=0.0, cache_size=1.0)
    all_columns = at_once * (prompt + new) * config.n_layers * 2 * config.n_kv_heads * config.head_dim
    read = turns * (new * parallel.device_bytes(laid) + held * seen / all_columns)
    sent = {"activations": turns * new * _step_sent(config, laid, at_once, mesh)}
    logits = at_once / shares * vocabulary_share(config, mesh) * 4
    return Cost(flops, read, sent, {"logits and output matrix": int(2 * logits)})


def _step_sent(config: ModelConfig, laid: Any, rows: int, mesh: AbstractMesh) -> float:
    """Bytes that a device sends while one token is written in every row."""
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    local, wide = (rows / data if rows % data == 0 else rows), jnp.dtype(config.compute_dtype).itemsize
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shared = {x.path.removesuffix("/kernel").split("/")[-1]: (x.fsdp, x.tensor) for x in leaves_of(laid)}
    sent = 0.0
    for name, width, sums in (
        ("query", queries, 1),  # to the devices that hold the rows' caches
        ("key", keys, 1),
        ("value", keys, 1),
        ("up", config.d_ff, 2),  # to all, as the next product reads it whole
        ("gate", config.d_ff, 2 if config.gated_mlp else 0),
    ):
        if sums:
            over, beside = shared[name]
            sent += sums * local * width / beside * wide * ring(over)
    for name in ("out", "down"):
        over, beside = shared[name]
        sent += 2 * local * config.d_model / over * wide * ring(beside)
    sent += local * queries / shared["query"][1] * wide * ring(fsdp)  # what attention gives, to where ``out`` lies
    over, beside = shared["embedding" if config.tie_embeddings else "unembedding"]
    head = local * config.vocab_size / beside * 4 * ring(over)
    return config.n_layers * sent + head
