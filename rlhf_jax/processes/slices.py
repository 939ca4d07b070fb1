"""An array from beginning to end, a slice at a time: it may be larger than a device or a host, and is whole nowhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.processes.agreement import AT_ONCE
from rlhf_jax.processes.arrays import fetch, on_device

_WIDTH = 4  # bytes of the smallest numbers that devices of all kinds add up


def slices(array: Any, at_once: int = AT_ONCE) -> Iterator[np.ndarray]:
    """Copy an array to the host in slices that follow one another in memory, row by row.

    A slice is some neighbours along the first axis; where one of these is too large, some neighbours of the second axis
    inside it, and so on. Where an array lies over devices, each gives what it has of the slice and the sum goes to all
    of them. All processes have to walk through it together.

    Args:
        array: a jax or numpy array.
        at_once: bytes of a slice at most, where a number counts as 4 bytes at least.

    Yields:
        numpy arrays whose elements, one after another, are the array's, row-major.

    Example:
        >>> [x.tolist() for x in slices(jnp.arange(6).reshape(3, 2), at_once=16)]
        [[[0, 1], [2, 3]], [[4, 5]]]
    """
    width = max(array.dtype.itemsize, _WIDTH)
    if array.size * width <= at_once:
        yield fetch(array)
        return
    sizes = _block(array.shape, max(1, at_once // width))
    take = _taker(array, sizes)
    for start in np.ndindex(*(math.ceil(n / size) for n, size in zip(array.shape, sizes, strict=True))):
        first = [i * size for i, size in zip(start, sizes, strict=True)]
        # The last one along an axis begins earlier, so that all are of one size and one program makes them.
        moved = [min(a, n - size) for a, n, size in zip(first, array.shape, sizes, strict=True)]
        found = take(moved)
        yield found[tuple(slice(a - b, None) for a, b in zip(first, moved, strict=True))]


def _block(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Choose the shape of a slice of at most so many elements, one without gaps in memory."""
    sizes = list(shape)
    for axis, n in enumerate(shape):
        sizes[axis] = max(1, min(n, most // math.prod(shape[axis + 1 :])))
        if sizes[axis] > 1 or math.prod(sizes) <= most:
            break
    return tuple(sizes)


def _taker(array: Any, sizes: tuple[int, ...]) -> Any:
    """Make the function that takes the slice of these sizes which begins at an index."""
    if not isinstance(array, jax.Array):
        return lambda start: array[tuple(slice(a, a + size) for a, size in zip(start, sizes, strict=True))]
    array = on_device(array)
    if array.is_fully_replicated:
        own = array.addressable_shards[0].data
        return lambda start: np.asarray(_cut(own, np.array(start, np.int32), sizes))
    if not isinstance(array.sharding, NamedSharding):
        raise TypeError(f"an array that lies over several devices needs a NamedSharding, found {array.sharding}")
    gather = gathering(array.sharding, array.ndim, sizes)
    dtype = np.dtype(array.dtype)
    # All devices have it, so the first of this process' is asked.
    return lambda start: _unsigned_as(
        np.asarray(gather(array, np.array(start, np.int32)).addressable_shards[0].data), dtype
    )


@functools.partial(jax.jit, static_argnums=2)
def _cut(array: jax.Array, start: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_slice(array, start, sizes)


@functools.cache
def gathering(sharding: NamedSharding, ndim: int, sizes: tuple[int, ...]) -> Any:
    """Make the program that gathers a slice: from an array and the index where it begins to its bits, unsigned."""
    spec = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
    names = [() if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in spec]

    def own(part: jax.Array, start: jax.Array) -> jax.Array:
        inside = jnp.ones((1,) * ndim, bool)
        for axis, (over, size) in enumerate(zip(names, sizes, strict=True)):
            at = start[axis] + jnp.arange(size)
            if over:
                at -= jax.lax.axis_index(over) * part.shape[axis]
            here = (at >= 0) & (at < part.shape[axis])
            inside &= jnp.expand_dims(here, [i for i in range(ndim) if i != axis])
            part = jnp.take(part, at, axis, mode="clip")
        # As whole numbers: a sum of floats would lose the sign of zero.
        return jax.lax.psum(jnp.where(inside, _unsigned(part), 0), sum(names, ()))

    whole = PartitionSpec()
    mapped = jax.shard_map(own, mesh=sharding.mesh, in_specs=(sharding.spec, whole), out_specs=whole, check_vma=False)
    return jax.jit(mapped)


def _unsigned(x: jax.Array) -> jax.Array:
    """Read the bits of numbers as whole ones that devices add up."""
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return bits if x.dtype.itemsize >= _WIDTH else bits.astype(jnp.uint32)


def _unsigned_as(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Read such bits as the numbers that they are."""
    return bits.astype(f"uint{8 * dtype.itemsize}", copy=False).view(dtype)
