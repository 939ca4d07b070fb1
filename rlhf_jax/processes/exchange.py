"""Several processes as one run: what is on every host, what is this one's share, and who writes the files.

A pod has a process a host. Each runs the same program and holds the devices of its host; an array that lies over all of
them is whole nowhere. In one process everything here gives back what it is given.

Every process has to call ``fetch``, ``exchange`` and ``from_first`` in the same order: they are exchanges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.processes.barriers import barrier
from rlhf_jax.processes.errors import LostProcessError, OtherProcessError

T = TypeVar("T")


# Seconds to wait for others where something is exchanged: a reward on text may ask a slow judge before.
PATIENCE = 1800.0

# What JAX says when a process, or the one that coordinates, no longer answers.
_LOSS = ("Connection closed by peer", "Gloo", "coordination service", "heartbeat", "Socket closed", "UNAVAILABLE")


def lost(error: BaseException) -> bool:
    """Tell whether an error of JAX means that another process is gone."""
    return several() and isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in _LOSS)


def loss_of(what: str, error: BaseException) -> LostProcessError:
    """Make the error to raise in its place."""
    said = str(error).splitlines()[0]
    return LostProcessError(
        f"{what}: another process of the run is gone ({said[:200]}); start all processes again with the same command, "
        "which continues from the last checkpoint"
    )


def several() -> bool:
    """Tell whether the run has more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Tell whether this is the process that writes files and speaks for all."""
    return not several() or jax.process_index() == 0


def share(count: int) -> slice:
    """Take this process's part of a list: neighbours, as even as can be, those of process 0 first.

    Args:
        count: length of the list, the same in every process.

    Returns:
        The part; all parts joined in the order of the processes are the list.

    Example:
        >>> share(5)
        slice(0, 5, None)
    """
    index, of = (jax.process_index(), jax.process_count()) if several() else (0, 1)
    return slice(count * index // of, count * (index + 1) // of)


def exchange(own: bytes) -> list[bytes]:
    """Give every process what each of them has.

    Args:
        own: this process's.

    Returns:
        Everybody's, in the order of the processes.

    Raises:
        BarrierError: a process did not come; the message says which.

    Example:
        >>> exchange(b"mine")
        [b'mine']
    """
    if not several():
        return [own]
    from jax.experimental.multihost_utils import process_allgather

    barrier("exchange", timeout=PATIENCE)  # which says who does not come; a collective would wait without end
    lengths = process_allgather(np.array([len(own)], np.int64)).reshape(-1)
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    everybody = np.asarray(process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(everybody, lengths.tolist(), strict=True)]


def exchange_json(own: Any) -> list[Any]:
    """Exchange JSON values, as ``exchange`` does bytes."""
    return [json.loads(x) for x in exchange(json.dumps(own).encode())] if several() else [own]


def agree(make: Callable[[], T], what: str, errors: tuple[type[Exception], ...] = (Exception,)) -> T:
    """Do something in every process, and stop all of them where it fails in one.

    A process that stopped alone would leave the others waiting for it.

    Args:
        make: what is done; it exchanges nothing.
        what: names it in the error.
        errors: those that others are told of.

    Returns:
        What ``make`` gave here.

    Raises:
        OtherProcessError: it failed in another process. Where it failed here, its own error is raised.

    Example:
        >>> agree(lambda: 3, "counting")
        3
    """
    if not several():
        return make()
    failed: Exception | None = None
    made: Any = None
    try:
        made = make()
    except errors as error:
        failed = error
    said = exchange_json("" if failed is None else f"{type(failed).__name__}: {failed}")
    if failed is not None:
        raise failed
    for number, text in enumerate(said):
        if text:
            raise OtherProcessError(f"{what}: process {number} of {len(said)} stopped ({text})")
    return made


def from_first(make: Callable[[], T], what: str) -> T:
    """Let the first process find something out, and tell it to the others.

    What depends on files must be asked once: another process may look before, or after, the first has written them.

    Args:
        make: gives a JSON value; called in the first process alone.
        what: names it in the error.

    Returns:
        The value, in every process.

    Raises:
        OtherProcessError: it failed in the first process, where its own error is raised.

    Example:
        >>> from_first(lambda: {"found": True}, "looking")
        {'found': True}
    """
    if not several():
        return make()
    made = agree(lambda: make() if first() else None, what)
    return exchange_json(made)[0]


def meet(what: str) -> None:
    """Wait until every process is here, so that what the first has written is there for all."""
    if several():
        exchange(what.encode())


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
        whole = _replicate(tuple(leaves[i] for i in apart))
        for i, x in zip(apart, whole, strict=True):
            leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def _is_here(x: jax.Array) -> bool:
    return x.is_fully_addressable or x.is_fully_replicated


def _replicate(arrays: Sequence[jax.Array]) -> Sequence[jax.Array]:
    places = tuple(_whole(x.sharding) for x in arrays)
    return _identity(places)(arrays)


def _whole(sharding: Any) -> NamedSharding:
    if not isinstance(sharding, NamedSharding):
        raise TypeError(f"an array that lies over several processes needs a NamedSharding, found {sharding}")
    return NamedSharding(sharding.mesh, PartitionSpec())


_PROGRAMS: dict[Any, Any] = {}


def _identity(places: tuple[NamedSharding, ...]) -> Any:
    """Make the program that gathers to these places, once for each."""
    if places not in _PROGRAMS:
        _PROGRAMS[places] = jax.jit(lambda x: x, out_shardings=places)
    return _PROGRAMS[places]


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
