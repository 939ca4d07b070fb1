"""What weights cost a device in a pass: bytes to gather, to read, and to bring gradients back to where weights lie."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig


class Leaf(NamedTuple):
    """One array of a model, as the devices of a mesh share it."""

    path: str
    numbers: int  # in all
    fsdp: int  # devices of the fsdp axis that share it
    tensor: int
    stored: int  # bytes a number

    @property
    def local(self) -> float:
        """Numbers that a device holds once those of the fsdp axis are gathered."""
        return self.numbers / self.tensor


class Weights(NamedTuple):
    """What a model's matrices take in one pass, bytes of one device."""

    gathered: float  # sent so that all blocks' matrices are whole along fsdp
    unneeded: float  # the part of it for each block's last product, which a block that is computed again does without
    head_gathered: float  # the same for the output matrix; 0 where no logits are made
    read: float  # the blocks' matrices as they are multiplied with
    head_read: float
    block: float  # one block's, whole along fsdp; 0 where nothing is gathered
    exchanges: int  # products a layer whose sum lies over the tensor axis
    embedding: bool  # whether the table's vocabulary lies over the tensor axis


def leaves_of(params: Any) -> list[Leaf]:
    """List a model's arrays; ``params`` are shapes with shardings."""
    return [_leaf(path, x) for path, x in jax.tree_util.tree_flatten_with_path(params)[0]]


def _leaf(path: Any, x: Any) -> Leaf:
    mesh, shares = x.sharding.mesh, {"fsdp": 1, "tensor": 1}
    for axis in x.sharding.spec:
        for name in (axis,) if isinstance(axis, str) else (axis or ()):
            shares[name] = mesh.shape[name]
    return Leaf(parallel.path_name(path), math.prod(x.shape), shares["fsdp"], shares["tensor"], x.dtype.itemsize)


def ring(devices: int) -> float:
    """Say which part of an array each device sends when all of them gather it, or sum it to their parts, in a ring."""
    return (devices - 1) / devices


def weights_of(config: ModelConfig, params: Any) -> Weights:
    """Count what a model's matrices take in a pass.

    A number travels and is read in the type that it is stored or computed in, whichever is narrower: the least that a
    compiler can do, which may well send the stored type.

    Args:
        config: the model's.
        params: shapes with shardings, trunk and adapters together.
    """
    leaves, wide = leaves_of(params), jnp.dtype(config.compute_dtype).itemsize

    def sizes(chosen: list[Leaf]) -> tuple[float, float]:
        each = [(x.local * min(x.stored, wide), ring(x.fsdp)) for x in chosen]
        return sum(size for size, _ in each), sum(size * part for size, part in each)

    blocks = [x for x in leaves if "blocks/" in x.path and x.path.endswith(("kernel", "lora_a", "lora_b"))]
    name = "embedding" if config.tie_embeddings else "unembedding"
    head = [] if config.scalar_head else [x for x in leaves if x.path.split("/")[-1] == name]
    (read, gathered), (head_read, head_gathered) = sizes(blocks), sizes(head)
    summed = [x for x in blocks if x.path.endswith(("attention/out/kernel", "mlp/down/kernel")) and x.tensor > 1]
    return Weights(
        gathered=gathered,
        unneeded=sizes([x for x in blocks if "mlp/down/" in x.path])[1],
        head_gathered=head_gathered,
        read=read,
        head_read=head_read,
        block=read / config.n_layers if gathered else 0.0,
        exchanges=len(summed),
        embedding=any(x.tensor > 1 for x in leaves if x.path.split("/")[-1] == "embedding"),
    )


def reduced(config: ModelConfig, trained: Any, mesh: AbstractMesh) -> dict[str, float]:
    """Count the bytes that a device sends to sum gradients over devices, each to where its weight lies.

    Over fsdp the gradient of a matrix goes to its parts, ``whole (f - 1) / f``, and one that every device holds is
    summed everywhere, ``2 whole (f - 1) / f``; over data parts are summed everywhere. Gradients of blocks are in the
    compute type while they travel, the others in float32. That of a table that is looked up stays where the table's
    width lies.

    Args:
        config: the model's.
        trained: what is trained: shapes with shardings.
        mesh: the devices.
    """
    fsdp, data = mesh.shape["fsdp"], mesh.shape["data"]
    wide = jnp.dtype(config.compute_dtype).itemsize
    over_fsdp = over_data = 0.0
    for x in leaves_of(trained):
        size = x.local * (wide if "blocks/" in x.path and x.path.endswith("kernel") else 4)
        looked_up = x.path.split("/")[-1] in ("embedding", "position_embedding")
        head = config.tie_embeddings and not config.scalar_head and x.path.split("/")[-1] == "embedding"
        if x.fsdp == 1:
            over_fsdp += 2 * size * ring(fsdp)
        elif not looked_up or head:
            over_fsdp += size * ring(fsdp)
        over_data += 2 * size / x.fsdp * ring(data)
    return {"gradients over fsdp": over_fsdp, "gradients over data": over_data}
