"""Weights that are not there: shapes in their place, with which everything can be compiled and nothing can be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from rlhf_jax.parallel.offload import HOST

R = TypeVar("R")


def are_shapes(tree: Any) -> bool:
    """Say whether a tree holds shapes (``jax.ShapeDtypeStruct``) in place of arrays.

    Example:
        >>> are_shapes({"x": jax.ShapeDtypeStruct((3,), "float32")}), are_shapes({"x": 1.0})
        (True, False)
    """
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def made_of(make: Callable[[Any], R], tree: R) -> R:
    """Make new weights from given ones, or their shapes from shapes; those that are passed on as they are stay so.

    Args:
        make: the function, which takes the tree and gives another.
        tree: arrays or shapes.

    Returns:
        What ``make`` gives, or its shapes. One that was there before, under the same path and of the same shape, keeps
        its sharding.

    Example:
        >>> import jax.numpy as jnp
        >>> made_of(lambda x: jnp.concatenate([x, x]), jax.ShapeDtypeStruct((3,), "float32")).shape
        (6,)
    """
    if not are_shapes(tree):
        return make(tree)
    before = dict(jax.tree_util.tree_flatten_with_path(tree)[0])

    def kept(path: Any, leaf: Any) -> Any:
        old = before.get(path)
        return old if old is not None and (old.shape, old.dtype) == (leaf.shape, leaf.dtype) else leaf

    return jax.tree_util.tree_map_with_path(kept, jax.eval_shape(make, tree))


def shaped(tree: Any, shardings: Any) -> Any:
    """Give shapes a sharding each: what arrays laid out so look like to the compiler.

    Args:
        tree: arrays or shapes.
        shardings: one for all, or the same tree of shardings.

    Returns:
        The same tree of ``jax.ShapeDtypeStruct``.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, shardings)


def device_bytes(tree: Any) -> int:
    """Count the bytes that arrays, or shapes with shardings, take on the device that has most of them.

    What waits in the host's memory takes none.

    Example:
        >>> import jax.numpy as jnp
        >>> device_bytes({"x": jnp.ones((2, 8)), "y": jnp.int32(1)})
        68
    """

    def one(leaf: Any) -> int:
        if leaf.sharding is not None and leaf.sharding.memory_kind == HOST:
            return 0
        size = leaf.dtype.itemsize
        for n in leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape):
            size *= n
        return int(size)

    return sum(map(one, jax.tree.leaves(tree)))
