"""The pieces in which an array is saved: each by the process that holds it, with a SHA-256 of its own.

An array that lies over many devices is cut where they cut it. A process hashes and writes what it holds; nobody ever
holds the whole. When it is read by other devices, which cut it elsewhere, the pieces are read once more, shared out
among the processes, to be compared with what was saved.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import processes

Bounds = tuple[tuple[int, int], ...]  # first and last + 1, for every axis


def bytes_of(value: np.ndarray) -> memoryview | bytes:
    """Give the bytes of an array as they lie in memory: row-major, on a little-endian machine."""
    return np.ascontiguousarray(value).view(np.uint8).data if value.size else b""


def sha256_of(value: np.ndarray) -> str:
    """Hash the bytes of an array."""
    return hashlib.sha256(bytes_of(value)).hexdigest()


def entries(leaves: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Describe leaves for a manifest: dtype, shape, and the SHA-256 of the whole or of every piece.

    Args:
        leaves: jax arrays, which may lie over several processes, or numpy arrays, the same in all of them.
        dtypes: what the manifest says of each, such as ``key<fry>`` for the numbers of a random key.

    Returns:
        The same in every process, which have to call this together.
    """
    held = [(name, bounds, piece) for name, leaf in leaves.items() for bounds, piece in _own(leaf)]
    with ThreadPoolExecutor() as pool:
        hashed = pool.map(lambda one: sha256_of(np.asarray(one[2])), held)
        own = [[name, bounds, sha256] for (name, bounds, _), sha256 in zip(held, hashed, strict=True)]
    found: dict[str, dict[str, str]] = {name: {} for name in leaves}
    for name, bounds, sha256 in (one for part in processes.exchange_json(own) for one in part):
        found[name][str(tuple(map(tuple, bounds)))] = sha256
    return {name: _entry(leaf, dtypes[name], found[name]) for name, leaf in leaves.items()}


def _entry(leaf: Any, dtype: str, sha256: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": dtype, "shape": list(leaf.shape)}
    whole = _whole(leaf.shape)
    if list(sha256) == [str(whole)]:
        return {**entry, "sha256": sha256[str(whole)]}
    cuts = all_bounds(leaf)
    return {**entry, "pieces": [{"at": [list(x) for x in at], "sha256": sha256[str(at)]} for at in sorted(cuts)]}


def expected(entry: Mapping[str, Any]) -> dict[Bounds, str]:
    """Read the pieces of a manifest's entry, and the SHA-256 of each."""
    if "sha256" in entry:
        return {_whole(entry["shape"]): entry["sha256"]}
    return {tuple((int(a), int(b)) for a, b in piece["at"]): piece["sha256"] for piece in entry["pieces"]}


def wrong_piece(value: Any, entry: Mapping[str, Any], stored: Path, number: int) -> str | None:
    """Compare what was read with what was saved, this process' part of it.

    Args:
        value: a jax or numpy array.
        entry: the manifest's.
        stored: the folder that holds the arrays.
        number: the leaf's in that folder.

    Returns:
        A phrase for the first piece that is another, or None.
    """
    there = all_bounds(value) if isinstance(value, jax.Array) and not value.is_fully_addressable else None
    value = value if there is not None else np.asarray(value)
    # What two processes hold was read by both, and is looked at by both.
    mine = {} if there is None else {_bounds(s.index, value.shape): s.data for s in value.addressable_shards}
    opened = functools.cache(
        lambda: open_stored(stored, number)
    )  # once for all pieces, and only where one is asked for
    for turn, (bounds, sha256) in enumerate(expected(entry).items()):
        if there is None:
            piece: Any = value[slices(bounds)]
        elif bounds in there:
            if bounds not in mine:
                continue  # another process has it
            piece = mine[bounds]
        elif (number + turn) % jax.process_count() != jax.process_index():
            continue  # another process reads it
        else:
            piece = opened()[slices(bounds)].read().result()
        found = sha256_of(np.asarray(piece))
        if found != sha256:
            where = "" if bounds == _whole(entry["shape"]) else f" at {_text(bounds)}"
            return f"{where} is {found}, but {sha256} was written"
    return None


def slices(bounds: Bounds) -> tuple[slice, ...]:
    """Turn the bounds of a piece into the index that takes it out of the whole."""
    return tuple(slice(a, b) for a, b in bounds)


def all_bounds(array: jax.Array) -> set[Bounds]:
    """List where the devices cut an array, those of other processes too."""
    return {_bounds(index, array.shape) for index in array.sharding.devices_indices_map(array.shape).values()}


def _own(leaf: Any) -> list[tuple[Bounds, Any]]:
    """The pieces that this process is to hash: one that several devices hold has one owner."""
    if not isinstance(leaf, jax.Array) or (leaf.is_fully_addressable and processes.several()):
        return [(_whole(leaf.shape), leaf)] if processes.first() else []
    return [(_bounds(s.index, leaf.shape), s.data) for s in leaf.addressable_shards if s.replica_id == 0]


def open_stored(stored: Path, number: int) -> Any:
    """Open an array that Orbax wrote, to read parts of it.

    Args:
        stored: the folder that holds the arrays.
        number: the leaf's in that folder.
    """
    import tensorstore

    base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{stored}/"}, "path": f"{number:05d}/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": base}, read=True, open=True).result()


def _bounds(index: Sequence[slice], shape: Sequence[int]) -> Bounds:
    return tuple((s.start or 0, size if s.stop is None else s.stop) for s, size in zip(index, shape, strict=True))


def _whole(shape: Sequence[int]) -> Bounds:
    return tuple((0, int(size)) for size in shape)


def _text(bounds: Bounds) -> str:
    return "[" + ", ".join(f"{a}:{b}" for a, b in bounds) + "]"
