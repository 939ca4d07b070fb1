"""Path rules: a regular expression on a leaf's path says how its dimensions lie on the mesh.

One list of rules serves parameters and optimiser states alike, since the path of an Adam moment ends with the path of
its parameter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rlhf_jax import processes

Rules = Sequence[tuple[str, PartitionSpec]]
Axis = str | tuple[str, ...] | None  # one of the mesh, several, or none
BATCH = ("data", "fsdp")  # the axes that a batch lies over

# The embedding dimension goes to fsdp; heads, MLP and vocabulary go to tensor. The first axis of a block's weights is
# the layer, over which the model scans, so it stays whole. Norms and biases are too small to be worth a gather.
PARAM_RULES: Rules = (
    (r"(^|/)embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(^|/)unembedding$", PartitionSpec("fsdp", "tensor")),
    (r"(^|/)position_embedding$", PartitionSpec(None, "fsdp")),
    (r"(^|/)(attention/(query|key|value)|mlp/(gate|up))/kernel$", PartitionSpec(None, "fsdp", "tensor")),
    (r"(^|/)(attention/out|mlp/down)/kernel$", PartitionSpec(None, "tensor", "fsdp")),
    # The rank of an adapter stays whole; its other axis lies as its matrix's does.
    (r"(^|/)(attention/(query|key|value)|mlp/(gate|up))/lora_a$", PartitionSpec(None, "fsdp", None)),
    (r"(^|/)(attention/(query|key|value)|mlp/(gate|up))/lora_b$", PartitionSpec(None, None, "tensor")),
    (r"(^|/)(attention/out|mlp/down)/lora_a$", PartitionSpec(None, "tensor", None)),
    (r"(^|/)(attention/out|mlp/down)/lora_b$", PartitionSpec(None, None, "fsdp")),
    (r"(^|/)head/kernel$", PartitionSpec("fsdp", None)),
    (r"scale$", PartitionSpec()),
    (r"bias$", PartitionSpec()),
)


def path_name(path: Sequence[Any]) -> str:
    """Write a leaf's path as text: keys joined by slashes.

    Args:
        path: the key path, as ``jax.tree_util.tree_flatten_with_path`` gives it.

    Returns:
        For example ``policy/blocks/mlp/up``.

    Example:
        >>> import jax
        >>> [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path({"policy": [3, 4]})[0]]
        ['policy/0', 'policy/1']
    """
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def axis_size(mesh: Mesh | AbstractMesh, axis: Axis) -> int:
    """Count the devices along an axis of the mesh, or along several together.

    Example:
        >>> import jax
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh
        >>> axis_size(make_mesh(MeshConfig(), jax.devices()[:1]), ("data", "fsdp"))
        1
    """
    names = (axis,) if isinstance(axis, str) else (axis or ())
    return math.prod(mesh.shape[name] for name in names)


def fitting(spec: PartitionSpec, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Leave whole what the devices cannot share evenly.

    Args:
        spec: where the dimensions are to lie; those that it does not name are whole.
        shape: the array's.
        mesh: the device mesh.

    Returns:
        The spec with None for every axis that does not divide its dimension.
    """
    each = zip(shape, spec, strict=False)
    return PartitionSpec(*(axis if size % axis_size(mesh, axis) == 0 else None for size, axis in each))


def rule_spec(name: str, shape: Sequence[int], rules: Rules = PARAM_RULES) -> PartitionSpec:
    """Find how a leaf is to lie, whether the devices can share it so or not.

    Args:
        name: its path, as ``path_name`` writes it.
        shape: its own.
        rules: pairs (regular expression searched in the path, PartitionSpec); the first that matches is taken.

    Raises:
        ValueError: no rule matches, or the rule names more dimensions than there are.

    Example:
        >>> tuple(rule_spec("policy/blocks/mlp/up/kernel", (2, 8, 16)))
        (None, 'fsdp', 'tensor')
    """
    if not shape:
        return PartitionSpec()
    for pattern, spec in rules:
        if not re.search(pattern, name):
            continue
        if len(spec) > len(shape):
            raise ValueError(
                f"rule {pattern!r} names {len(spec)} dimensions, but {name} has shape {tuple(shape)}; fix the rule"
            )
        return spec
    raise ValueError(
        f"no partition rule matches {name} of shape {tuple(shape)}; add (pattern, PartitionSpec) to the rules"
    )


def param_shardings(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES, *, leading: int = 0) -> Any:
    """Place every leaf of a tree of parameters, or of a training state with its optimiser's.

    Args:
        tree: arrays, or their shapes from ``jax.eval_shape``.
        mesh: the device mesh.
        rules: pairs (regular expression searched in the leaf's path, PartitionSpec); the first that matches is taken.
        leading: how many axes stand before those of the rules and are left whole: 1 for the members of an ensemble.

    Returns:
        The same tree with a ``NamedSharding`` for each leaf. Scalars are replicated, and a dimension that its mesh axis
        does not divide is left whole.

    Raises:
        ValueError: no rule matches a leaf, or a rule names more dimensions than the leaf has.

    Example:
        >>> import jax
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> shapes = {"policy": {"embedding": jax.ShapeDtypeStruct((32, 8), "float32")}}
        >>> tuple(param_shardings(shapes, mesh)["policy"]["embedding"].spec)
        ('tensor', 'fsdp')
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        own = leaf.shape[leading:]
        spec = fitting(rule_spec(path_name(path), own, rules), own, mesh)
        whole = min(leading, leaf.ndim)
        return NamedSharding(mesh, PartitionSpec(*(None,) * whole, *spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_shardings(batch: Any, mesh: Mesh, *, batch_axis: int = 0) -> Any:
    """Place a batch: its batch axis lies over data and fsdp together, everything else is whole.

    Args:
        batch: arrays or shapes ``[B, ...]``; with ``batch_axis=1``, micro-batches ``[A, B, ...]``.
        mesh: the device mesh.
        batch_axis: which axis counts the groups (or the rows of a packed batch).

    Returns:
        The same tree with a ``NamedSharding`` for each leaf. A leaf whose batch axis the devices do not divide is
        replicated: right, but every device then does the whole work on it.

    Example:
        >>> import jax
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> tuple(batch_shardings({"tokens": jax.ShapeDtypeStruct((4, 1, 16), "int32")}, mesh)["tokens"].spec)
        (('data', 'fsdp'),)
    """

    def place(leaf: Any) -> NamedSharding:
        shape = tuple(leaf.shape)
        if len(shape) <= batch_axis or shape[batch_axis] % axis_size(mesh, BATCH):
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*(None,) * batch_axis, BATCH))

    return jax.tree.map(place, batch)


def replicated(mesh: Mesh) -> NamedSharding:
    """Place the whole array on every device of the mesh.

    Args:
        mesh: the device mesh.

    Returns:
        A sharding that fits any shape, and any tree as a prefix.

    Example:
        >>> import jax
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh
        >>> replicated(make_mesh(MeshConfig(), jax.devices()[:1])).is_fully_replicated
        True
    """
    return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, shardings: Any) -> Any:
    """Put a tree on the devices.

    In a job of several processes each holds the same host arrays and keeps its own part of them.

    Args:
        tree: numpy or jax arrays; shapes are given their sharding and put nowhere.
        shardings: one sharding for all, or a tree of them.

    Returns:
        The same tree of jax arrays.

    Example:
        >>> import jax, numpy as np
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> put({"x": np.arange(3)}, replicated(mesh))["x"].sharding.mesh.axis_names
        ('data', 'fsdp', 'tensor')
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)

    def place(leaf: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            # One that lies there already is the very same, as an array would be.
            there = leaf.sharding == sharding
            return leaf if there else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return processes.put(leaf, sharding)

    return jax.tree.map(place, tree, shardings)
