"""What a model function may know of the mesh that it is traced under: how many devices share rows and vocabulary.

Models take no mesh as an argument. ``training.jit_step`` and the stages trace their programs under one
(``parallel.traced_on``), and what is sized by a device's share of the work reads it here. Without a mesh there is one
device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from rlhf_jax.types import Array

ROWS = ("data", "fsdp")  # the axes of the mesh that a batch's rows lie over
VOCABULARY = "tensor"
HEADS = "tensor"
WIDTH = "fsdp"  # the stream's, in weights

Axis = str | tuple[str, ...] | None  # where on the mesh a dimension lies


def platform() -> str:
    """Name what the program will run on: cpu, gpu or tpu."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def row_shares(rows: int) -> int:
    """Count the devices that share so many rows: 1 where the rows cannot be divided among them."""
    mesh = _mesh()
    shares = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)
    return shares if rows % shares == 0 else 1


def vocabulary_shares(size: int) -> int:
    """Count the devices that share a vocabulary: 1 where it cannot be divided among them."""
    mesh = _mesh()
    shares = 1 if mesh is None else mesh.shape[VOCABULARY]
    return shares if size % shares == 0 else 1


def width_shares(width: int) -> int:
    """Count the devices that share the width of weights: 1 where it cannot be divided among them."""
    mesh = _mesh()
    shares = 1 if mesh is None else mesh.shape[WIDTH]
    return shares if width % shares == 0 else 1


def weights_are_shared() -> bool:
    """Say whether several devices share the width of weights."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[WIDTH] > 1


def constrained(x: Array, *axes: Axis) -> Array:
    """Ask for an array's dimensions to lie along axes of the mesh, where there is one and it divides them."""
    mesh = _mesh()
    if mesh is None or mesh.size == 1:
        return x

    fitting = (_if_divided(mesh, size, axis) for size, axis in zip(x.shape, axes, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def by_rows(x: Array, *axes: str | None) -> Array:
    """Hold every row of ``x [B, ...]`` whole on the devices that have its share of the batch.

    Told nothing, a compiler may prefer to split the width, as the weights are, and to give every device all rows: the
    numbers are the same, and nothing scales.

    Args:
        x: [B, ...].
        axes: axes of the mesh for the dimensions after the first; None for those that are not named.

    Returns:
        The same array, in the backward pass too.
    """
    return constrained(x, ROWS, *axes, *(None,) * (x.ndim - 1 - len(axes)))


def by_width(x: Array) -> Array:
    """Hold ``x [B, T, D]`` by its width, as the weights lie, and by rows over ``data`` alone.

    Decoding holds its one token a row so: it reads every weight for it. To bring the tokens of all rows to the weights,
    a part of the width each, costs a few numbers; to bring the weights to the rows, as whole sequences do, would cost
    all of them, every token.
    """
    return constrained(x, "data", None, WIDTH)


def shares_known() -> bool:
    """Say whether it is known, while a program is traced, how devices share the work: by a mesh, or as one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or _mesh() is not None or all(kind == AxisType.Manual for kind in mesh.axis_types)


def one_device() -> bool:
    """Say whether a program is traced for one device alone."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.size == 1


def on_shares(work: Callable[..., Array], q: Array, k: Array, v: Array, *by_row: Array) -> Array:
    """Compute attention on every device for its own rows and heads: the compiler cannot divide a kernel.

    Rows, or heads, that the devices cannot share evenly are computed whole on each. Inside ``shard_map``, and on one
    device, the work is done as it is.

    Args:
        work: ``(q, k, v, *by_row) -> like q``.
        q: [B, T, H, Dh].
        k: [B, C, Hkv, Dh].
        v: [B, C, Hkv, Dh].
        by_row: [B, ...] each.

    Returns:
        What ``work`` gives, [B, T, H, Dh].
    """
    mesh = _mesh()
    if mesh is None or mesh.size == 1:
        return work(q, k, v, *by_row)
    rows, heads = _if_divided(mesh, q.shape[0], ROWS), _if_divided(mesh, k.shape[2], HEADS)
    whole, row = PartitionSpec(rows, None, heads), PartitionSpec(rows)
    specs = (whole, whole, whole, *(row for _ in by_row))
    # Pallas does not say over which axes its results vary.
    mapped = jax.shard_map(work, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
    return mapped(q, k, v, *by_row)


def _if_divided(mesh: AbstractMesh, size: int, axis: Axis) -> Axis:
    """Keep an axis, or several, if the devices along it share a dimension of this size evenly; else none."""
    names = (axis,) if isinstance(axis, str) else (axis or ())
    return axis if size % math.prod(mesh.shape[name] for name in names) == 0 else None


def _mesh() -> AbstractMesh | None:
    """Take the mesh whose axes are ours and left to the compiler; inside ``shard_map`` a device sees its own share."""
    mesh = jax.sharding.get_abstract_mesh()
    names = {*ROWS, VOCABULARY}
    ours = names <= set(mesh.axis_names) and all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if ours else None
