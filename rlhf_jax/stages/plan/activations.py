"""What packed rows take on one device beside weights: activations that are kept, one layer at work, logits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.models.attention import chosen
from rlhf_jax.models.logit_chunks import Chunks, plan_chunks
from rlhf_jax.models.output_gradient import gradient_parts


class Rows(NamedTuple):
    """Rows that one forward pass sees, over all devices together."""

    number: int
    length: int  # tokens of a row
    tokens: float  # real ones, in all rows
    sequence: int  # tokens of a sequence
    targets: float  # tokens at which logits are made


def row_shares(mesh: AbstractMesh, rows: int) -> int:
    """Count the devices that share so many rows; 1 where they cannot be divided, and every device has all of them."""
    shares = parallel.axis_size(mesh, parallel.BATCH)
    return shares if rows % shares == 0 else 1


def local_tokens(rows: Rows, mesh: AbstractMesh) -> float:
    """Count the tokens of one device, padding included."""
    return rows.number * rows.length / row_shares(mesh, rows.number)


def stream_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count the bytes of the residual stream on one device."""
    return local_tokens(rows, mesh) * config.d_model * jnp.dtype(config.compute_dtype).itemsize


def kept_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count what all layers keep for the backward pass, on one device.

    ``block``: the stream before each; ``dots``: that and what the matrices give, but for the last; ``none``: everything
    that products, norms and attention read.

    Args:
        config: the model's.
        rows: what the pass sees.
        mesh: the devices.
    """
    if config.remat == "none":
        return config.n_layers * layer_bytes(config, rows, mesh)
    stream = stream_bytes(config, rows, mesh)
    if config.remat == "block":
        return config.n_layers * stream
    queries, keys, inner = _widths(config, mesh)
    given = queries + 2 * keys + config.d_model + inner * (2 if config.gated_mlp else 1)
    return config.n_layers * stream * (1 + given / config.d_model)


def layer_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count what one layer keeps where nothing is computed again: inputs of products and norms, and attention's.

    Args:
        config: the model's.
        rows: what the pass sees.
        mesh: the devices.
    """
    local, wide = local_tokens(rows, mesh), jnp.dtype(config.compute_dtype).itemsize
    queries, keys, inner = _widths(config, mesh)
    numbers = 4 * config.d_model + 2 * queries + 2 * keys + inner * (3 if config.gated_mlp else 2)
    if config.qk_norm != "none":
        numbers += queries + keys
    kind = chosen(
        config.attention,
        platform=parallel.platform(mesh),
        dtype=config.compute_dtype,
        length=rows.length,
        head_dim=config.head_dim,
        cap=config.attention_softcap,
    )
    # The plain form keeps the weights of all pairs, in float32 and in the compute type; kernels keep a number a head
    # and token.
    pairs = rows.length * (4 if wide == 4 else 6) if kind == "xla" else 4
    return local * (numbers * wide + queries / config.head_dim * pairs)


def logit_chunks(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> Chunks:
    """Plan the chunks that logits are made in, as a program that is traced for these devices does."""
    with jax.sharding.use_abstract_mesh(mesh):
        return plan_chunks(rows.number, rows.length, config.vocab_size)


def vocabulary_share(config: ModelConfig, mesh: AbstractMesh) -> float:
    """Count the words of the vocabulary on a device: all of them where the tensor axis does not divide it."""
    tensor = mesh.shape["tensor"]
    return config.vocab_size / (tensor if config.vocab_size % tensor == 0 else 1)


def chunk_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh, *, gradient: bool) -> float:
    """Count the bytes of a chunk's logits and their slope and, for a gradient, of the logits that are kept.

    Args:
        config: the model's.
        rows: what the pass sees.
        mesh: the devices.
        gradient: whether there is a backward pass.
    """
    chunks, token = logit_chunks(config, rows, mesh), 4 * vocabulary_share(config, mesh)
    return token * (2 * chunks.size + (chunks.count * chunks.size if gradient and chunks.keep else 0))


def head_gradient_bytes(config: ModelConfig, rows: Rows, mesh: AbstractMesh) -> float:
    """Count the bytes that the gradient of the output matrix takes while it is summed, before it is handed over.

    Args:
        config: the model's.
        rows: what the pass sees.
        mesh: the devices.
    """
    chunks, itemsize = logit_chunks(config, rows, mesh), jnp.dtype(config.compute_dtype).itemsize
    with jax.sharding.use_abstract_mesh(mesh):
        parts = gradient_parts(chunks, config.d_model, config.vocab_size, itemsize)
    columns = vocabulary_share(config, mesh)
    if parts == 1:
        return 4 * config.d_model * columns
    slopes = itemsize * chunks.count * chunks.size * columns
    return slopes + 4 * config.d_model * columns / parts


def _widths(config: ModelConfig, mesh: AbstractMesh) -> tuple[float, float, float]:
    """Widths on a device of queries, of keys, and inside the MLP."""
    tensor = mesh.shape["tensor"]
    shared = tensor if config.n_kv_heads % tensor == 0 else 1  # keys have fewer heads, so they decide
    inner = config.d_ff / tensor if config.d_ff % tensor == 0 else config.d_ff
    return config.n_heads * config.head_dim / shared, config.n_kv_heads * config.head_dim / shared, inner
