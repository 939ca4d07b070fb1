"""Passes over packed rows, forward or with their gradient: what they compute, read, send and hold on one device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.models.attention import chosen
from rlhf_jax.models.logit_chunks import Chunks, plan_chunks
from rlhf_jax.parallel.hardware import platform_of
from rlhf_jax.stages.plan.weights import Weights, reduced, ring, weights_of


class Rows(NamedTuple):
    """Rows that one forward pass sees, over all devices together."""

    number: int
    length: int  # tokens of a row
    tokens: float  # real ones, in all rows
    sequence: int  # tokens of a sequence
    targets: float  # tokens at which logits are made


class Cost(NamedTuple):
    """What some work takes on one device."""

    flops: float
    read: float
    sent: dict[str, float]
    memory: dict[str, int]


def row_shares(mesh: AbstractMesh, rows: int) -> int:
    """Count the devices that share so many rows; 1 where they cannot be divided, and every device has all of them."""
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    return shares if rows % shares == 0 else 1


def forward_cost(config: ModelConfig, params: Any, rows: Rows, mesh: AbstractMesh) -> Cost:
    """Count a forward pass without a gradient.

    Args:
        config: the model's.
        params: shapes with shardings.
        rows: what the pass sees.
        mesh: the devices.
    """
    weights, local = weights_of(config, params), _local(rows, mesh)
    targets = 0.0 if config.scalar_head else rows.targets
    flops = costs.forward_flops(config, rows.tokens, rows.sequence, logits=targets) / _workers(rows, mesh)
    wide = jnp.dtype(config.compute_dtype).itemsize
    stream = local * config.d_model * wide
    chunk = _logits(config, rows, mesh)
    read = weights.read + weights.head_read + 2 * config.n_layers * stream + 2 * _all_logits(config, targets, mesh)
    sent = {
        "weights over fsdp": weights.gathered + weights.head_gathered,
        "activations": _summed(config, weights, stream, mesh) + _looked_up(weights, stream, mesh),
    }
    memory = {
        "one block at work": int(weights.block + layer_bytes(config, rows, mesh) + stream),
        "logits and output matrix": 0
        if config.scalar_head
        else int(chunk_bytes(config, chunk, mesh) + weights.head_read),
    }
    return Cost(flops, read, sent, memory)


def update_cost(
    config: ModelConfig, params: Any, trained: Any, rows: Rows, mesh: AbstractMesh, copies: int = 1
) -> Cost:
    """Count a forward pass and its gradient, for one part of a batch; the optimiser is not in it.

    Args:
        config: the model's, whose ``remat`` says what is computed again.
        params: shapes with shardings.
        trained: the part of ``params`` that has a gradient.
        rows: what the pass sees.
        mesh: the devices.
        copies: models that are trained side by side; ``params`` are stacked, and each sees such rows.
    """
    weights, local, wide = weights_of(config, params), _local(rows, mesh), jnp.dtype(config.compute_dtype).itemsize
    targets = 0.0 if config.scalar_head else rows.targets
    chunk, again, tensor = _logits(config, rows, mesh), config.remat == "block", mesh.shape["tensor"]
    whole = costs.train_flops(config, rows.tokens, rows.sequence, logits=targets) + recomputed(config, rows)
    if not chunk.keep:
        whole += 2 * costs.head_parameters(config) * targets
    stream, kept = local * config.d_model * wide, kept_bytes(config, rows, mesh)
    passes = 2 * weights.read + (weights.read if again else 0.0)
    gathers = 2 * weights.gathered + (weights.gathered - weights.unneeded if again else 0.0)
    # In the forward pass after attention and after the MLP, in the backward pass before them; computed again, only the
    # first of the two is needed.
    summed = (2 + again * 0.5) * _summed(config, weights, stream, mesh) + _looked_up(weights, stream, mesh)
    back = stream * ring(mesh.shape["fsdp"])  # of the table's gradient
    back += (
        0.0 if config.scalar_head else 4 * config.d_model * targets / row_shares(mesh, rows.number) * 2 * ring(tensor)
    )
    gradient = parallel.device_bytes(trained)
    read = (2 if weights.block else 1) * passes + 2 * weights.head_read + 2 * gradient
    read += copies * (2 * kept + 4 * _all_logits(config, targets, mesh))
    head = 0 if config.scalar_head else int(chunk_bytes(config, chunk, mesh, gradient=True) + weights.head_read)
    if not config.scalar_head and _trains_head(config, trained):
        head += int(4 * costs.head_parameters(config) / mesh.shape["tensor"])
    return Cost(
        copies * whole / _workers(rows, mesh),
        read,
        {
            "weights over fsdp": gathers + weights.head_gathered,
            **reduced(config, trained, mesh),
            "activations": copies * (summed + back),
        },
        {
            "activations for the backward pass": int(copies * kept),
            "one block at work": int(weights.block + copies * (layer_bytes(config, rows, mesh) + stream)),
            "logits and output matrix": copies * head,
        },
    )


def recomputed(config: ModelConfig, rows: Rows) -> float:
    """Count the FLOPs that ``remat`` makes the backward pass do again, over all devices.

    ``block``: all products of a block but the last, and attention; ``dots``: attention alone.
    """
    if config.remat == "none":
        return 0.0
    found = costs.attention_flops(config, rows.tokens, rows.sequence)
    if config.remat == "block":
        needed = costs.matrix_parameters(config) + costs.adapter_parameters(config)
        found += 2 * (needed - config.n_layers * config.d_model * config.d_ff) * rows.tokens
    return found


def kept_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count what all layers keep for the backward pass, on one device.

    ``block``: the stream before each; ``dots``: that and what the matrices give; ``none``: everything that products,
    norms and attention read.
    """
    local, wide, d = _local(rows, mesh), jnp.dtype(config.compute_dtype).itemsize, config.d_model
    if config.remat == "block":
        return config.n_layers * local * d * wide
    if config.remat == "dots":
        queries, keys, inner = _widths(config, mesh)
        given = queries + 2 * keys + d + inner * (2 if config.gated_mlp else 1)
        return config.n_layers * local * (d + given) * wide
    return config.n_layers * layer_bytes(config, rows, mesh)


def layer_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count what one layer keeps where nothing is computed again: inputs of products and norms, and attention's."""
    local, wide, d = _local(rows, mesh), jnp.dtype(config.compute_dtype).itemsize, config.d_model
    queries, keys, inner = _widths(config, mesh)
    numbers = 4 * d + 2 * queries + 2 * keys + inner * (3 if config.gated_mlp else 2)
    if config.qk_norm != "none":
        numbers += queries + keys
    heads = config.n_heads / _heads_shared(config, mesh)
    kind = chosen(
        config.attention,
        platform=platform_of(mesh),
        dtype=config.compute_dtype,
        length=rows.length,
        head_dim=config.head_dim,
        cap=config.attention_softcap,
    )
    # The plain form keeps the weights of all pairs; kernels keep a number a head and token.
    attention = local * heads * (rows.length * (4 if wide == 4 else 6) if kind == "xla" else 4)
    return local * numbers * wide + attention


def chunk_bytes(config: ModelConfig, chunk: Chunks, mesh: AbstractMesh, *, gradient: bool = False) -> float:
    """Count the bytes of a chunk's logits and its slope, and with a gradient of the logits that are kept."""
    token = 4 * config.vocab_size / _vocabulary_shared(config, mesh)
    return token * (2 * chunk.size + (chunk.count * chunk.size if gradient and chunk.keep else 0))


def _logits(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> Chunks:
    with jax.sharding.use_abstract_mesh(mesh):  # sized by the platform, and by a device's share
        return plan_chunks(rows.number, rows.length, config.vocab_size)


def _all_logits(config: ModelConfig, targets: float, mesh: AbstractMesh) -> float:
    """Bytes of all logits that a device makes."""
    return 4 * targets * config.vocab_size / (mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["tensor"])


def _local(rows: Rows, mesh: AbstractMesh) -> float:
    """Tokens of a device, padding included."""
    return rows.number * rows.length / row_shares(mesh, rows.number)


def _workers(rows: Rows, mesh: AbstractMesh) -> int:
    return row_shares(mesh, rows.number) * mesh.shape["tensor"]


def _summed(config: ModelConfig, weights: Weights, stream: float, mesh: AbstractMesh) -> float:
    """Bytes sent over the tensor axis to sum what a forward pass's products give: the stream, in every layer."""
    return weights.exchanges * config.n_layers * 2 * stream * ring(mesh.shape["tensor"])


def _looked_up(weights: Weights, stream: float, mesh: AbstractMesh) -> float:
    """Bytes sent to exchange parts of embeddings for rows over fsdp, and to sum what parts of the vocabulary gave."""
    summed = 2 * stream * ring(mesh.shape["tensor"]) if weights.embedding else 0.0
    return stream * ring(mesh.shape["fsdp"]) + summed


def _widths(config: ModelConfig, mesh: AbstractMesh) -> tuple[float, float, float]:
    """Widths on a device of queries, of keys, and inside the MLP."""
    tensor, shared = mesh.shape["tensor"], _heads_shared(config, mesh)
    inner = config.d_ff / tensor if config.d_ff % tensor == 0 else config.d_ff
    return config.n_heads * config.head_dim / shared, config.n_kv_heads * config.head_dim / shared, inner


def _heads_shared(config: ModelConfig, mesh: AbstractMesh) -> int:
    """Devices that share the heads: keys and values decide, of which there are fewer."""
    tensor = mesh.shape["tensor"]
    return tensor if config.n_kv_heads % tensor == 0 else 1


def _vocabulary_shared(config: ModelConfig, mesh: AbstractMesh) -> int:
    tensor = mesh.shape["tensor"]
    return tensor if config.vocab_size % tensor == 0 else 1


def _trains_head(config: ModelConfig, trained: Any) -> bool:
    return ("embedding" if config.tie_embeddings else "unembedding") in trained
