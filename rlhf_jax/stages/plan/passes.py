"""One pass over packed rows, forward or with its gradient: what it computes, reads, sends and holds on one device."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.sharding import AbstractMesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.stages.plan.activations import (
    Rows,
    chunk_bytes,
    head_gradient_bytes,
    kept_bytes,
    layer_bytes,
    logit_chunks,
    row_shares,
    stream_bytes,
    vocabulary_share,
)
from rlhf_jax.stages.plan.weights import Weights, reduced, ring, weights_of


class Cost(NamedTuple):
    """What some work takes on one device."""

    flops: float
    read: float  # bytes to and from its memory
    sent: dict[str, float]  # bytes by purpose
    memory: dict[str, int]  # bytes by part


def forward_cost(config: ModelConfig, params: Any, rows: Rows, mesh: AbstractMesh) -> Cost:
    """Count a forward pass without a gradient.

    Args:
        config: the model's.
        params: shapes with shardings.
        rows: what the pass sees.
        mesh: the devices.
    """
    weights, stream, targets = weights_of(config, params), stream_bytes(config, rows, mesh), _targets(config, rows)
    flops = costs.forward_flops(config, rows.tokens, rows.sequence, logits=targets)
    read = (
        weights.read + weights.head_read + 2 * config.n_layers * stream + 2 * _logit_bytes(config, targets, rows, mesh)
    )
    sent = {
        "weights over fsdp": weights.gathered + weights.head_gathered,
        "activations": _summed(config, weights, stream, mesh) + _looked_up(weights, stream, mesh),
    }
    memory = {"one block at work": int(weights.block + layer_bytes(config, rows, mesh) + stream)}
    if not config.scalar_head:
        memory["logits and output matrix"] = int(chunk_bytes(config, rows, mesh, gradient=False) + weights.head_read)
    return Cost(flops / _workers(rows, mesh) + _whole_head(config, 2 * targets, rows, mesh), read, sent, memory)


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
    weights, stream, targets = weights_of(config, params), stream_bytes(config, rows, mesh), _targets(config, rows)
    again, kept = config.remat == "block", kept_bytes(config, rows, mesh)
    flops = costs.train_flops(config, rows.tokens, rows.sequence, logits=targets) + recomputed(config, rows)
    if targets and not logit_chunks(config, rows, mesh).keep:  # the logits are made again
        flops += 2 * costs.head_parameters(config) * targets
    passes = (3 if again else 2) * weights.read * (2 if weights.gathered else 1)  # what is gathered is written as well
    read = passes + 2 * weights.head_read + 2 * parallel.device_bytes(trained)
    read += copies * (2 * kept + 4 * _logit_bytes(config, targets, rows, mesh))
    gathered = (3 if again else 2) * weights.gathered - (weights.unneeded if again else 0.0)
    sent = {
        "weights over fsdp": gathered + 2 * weights.head_gathered,
        **reduced(config, trained, mesh),
        "activations": copies * _exchanged(config, weights, rows, mesh),
    }
    memory = {
        "activations for the backward pass": int(copies * kept),
        "one block at work": int(weights.block + copies * (layer_bytes(config, rows, mesh) + stream)),
    }
    if not config.scalar_head:
        head = chunk_bytes(config, rows, mesh, gradient=True) + weights.head_read
        if ("embedding" if config.tie_embeddings else "unembedding") in trained:
            head += head_gradient_bytes(config, rows, mesh)
        memory["logits and output matrix"] = int(copies * head)
    flops = flops / _workers(rows, mesh) + _whole_head(config, 6 * targets, rows, mesh)
    return Cost(copies * flops, read, sent, memory)


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


def _exchanged(config: ModelConfig, weights: Weights, rows: Rows, mesh: AbstractMesh) -> float:
    """Bytes that one model's activations and their gradients send in an update.

    In the forward pass the stream is summed after attention and after the MLP, in the backward pass before them;
    computed again, only the first of the two is needed. The gradient of the hidden states, in float32, is summed over
    the parts of the vocabulary, and that of the embeddings goes back over fsdp.
    """
    stream = stream_bytes(config, rows, mesh)
    sums = 2.5 if config.remat == "block" else 2.0
    hidden = 4 * config.d_model * _targets(config, rows) / row_shares(mesh, rows.number)
    back = stream * ring(mesh.shape["fsdp"]) + 2 * hidden * ring(mesh.shape["tensor"])
    return sums * _summed(config, weights, stream, mesh) + _looked_up(weights, stream, mesh) + back


def _summed(config: ModelConfig, weights: Weights, stream: float, mesh: AbstractMesh) -> float:
    """Bytes sent over the tensor axis to sum what a forward pass's products give: the stream, in every layer."""
    return weights.exchanges * config.n_layers * 2 * stream * ring(mesh.shape["tensor"])


def _looked_up(weights: Weights, stream: float, mesh: AbstractMesh) -> float:
    """Bytes sent to exchange parts of embeddings for rows over fsdp, and to sum what parts of the vocabulary gave."""
    summed = 2 * stream * ring(mesh.shape["tensor"]) if weights.embedding else 0.0
    return stream * ring(mesh.shape["fsdp"]) + summed


def _targets(config: ModelConfig, rows: Rows) -> float:
    return 0.0 if config.scalar_head else rows.targets


def _logit_bytes(config: ModelConfig, targets: float, rows: Rows, mesh: AbstractMesh) -> float:
    """Bytes of all logits that a device makes."""
    return 4 * targets / row_shares(mesh, rows.number) * vocabulary_share(config, mesh)


def _whole_head(config: ModelConfig, each: float, rows: Rows, mesh: AbstractMesh) -> float:
    """FLOPs of the output matrix that the tensor axis would spare a device, and does not where it divides no word."""
    more = vocabulary_share(config, mesh) - config.vocab_size / mesh.shape["tensor"]
    return each * config.d_model * more / row_shares(mesh, rows.number)


def _workers(rows: Rows, mesh: AbstractMesh) -> int:
    """Devices that share a pass's products."""
    return row_shares(mesh, rows.number) * mesh.shape["tensor"]
