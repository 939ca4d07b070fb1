"""Arrays between the host and the devices of all processes: an array that lies over several is whole nowhere."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.processes.agreement import several


def fetch(tree: Any) -> Any:
    """Copy arrays to the host, whole, whatever devices and processes they lie over.

    Args:
        tree: jax or numpy arrays, no random keys.

    Returns:
        The same tree of numpy arrays. What lies over several processes is gathered.

    Example:
        >>> import jax.numpy as jnp
        >>> fetch({"x": jnp.arange(3)})["x"].tolist()
        [0, 1, 2]
    """
    return jax.device_get(_gathered(tree))


def _gathered(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    apart = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and not _is_here(x)]
    if apart:
        arrays = tuple(on_device(leaves[i]) for i in apart)
        whole = _replicate(tuple(_whole(x.sharding) for x in arrays))(arrays)
        for i, x in zip(apart, whole, strict=True):
            leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def on_device(x: jax.Array) -> jax.Array:
    """Copy what waits in the host's memory to where programs run."""
    return x if x.sharding.memory_kind != "pinned_host" else jax.device_put(x, x.sharding.with_memory_kind("device"))


def _is_here(x: jax.Array) -> bool:
    return x.is_fully_addressable or x.is_fully_replicated


def _whole(sharding: Any) -> NamedSharding:
    if not isinstance(sharding, NamedSharding):
        raise TypeError(f"an array that lies over several processes needs a NamedSharding, found {sharding}")
    return NamedSharding(sharding.mesh, PartitionSpec())


@functools.cache
def _replicate(places: tuple[NamedSharding, ...]) -> Any:
    """Make the program that gathers to these places."""
    return jax.jit(lambda x: x, out_shardings=places)


def put(tree: Any, shardings: Any) -> Any:
    """Put arrays on devices; each process keeps its own part of host arrays, which are the same in all of them.

    Args:
        tree: numpy or jax arrays.
        shardings: one sharding for all, or a tree of them.

    Returns:
        The same tree of jax arrays.

    Example:
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> put({"x": np.arange(3)}, place)["x"].tolist()
        [0, 1, 2]
    """
    if not several():
        return jax.device_put(tree, shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(_put, tree, shardings)


def _put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable or sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            impl, data = jax.random.key_impl(leaf), _put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=impl)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
