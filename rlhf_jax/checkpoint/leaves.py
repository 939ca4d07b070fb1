"""A tree of arrays in a folder that verifies: leaves by path, each with its dtype, shape and hashes, and a manifest.

This is the only importer of Orbax. Orbax writes and commits, every process what it holds; what it does not promise is
added here: a SHA-256 of every leaf or of its pieces (it restores a flipped bit silently), exact dtypes (it casts
silently) and random keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from rlhf_jax import processes
from rlhf_jax.checkpoint.manifest import fault
from rlhf_jax.checkpoint.pieces import bytes_of, entries, wrong_piece
from rlhf_jax.files import CheckpointError, MachineFault, machine_fault

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax puts this into the name of a folder that is not committed yet


class Damaged(CheckpointError):
    """What is on disk is not what was saved."""


def unreadable(what: str, error: Exception) -> CheckpointError:
    """Make the error for what could not be read: damage, unless it was this machine that failed.

    Args:
        what: names it.
        error: what was raised. Damage can surface as any error in any layer.
    """
    fault = machine_fault(error)
    if fault:
        return MachineFault(f"{what} could not be read here ({fault}); nothing is known to be wrong with what it holds")
    return Damaged(f"{what} cannot be read ({type(error).__name__}: {str(error)[:200]})")


class Writing(Protocol):
    """A save that goes on in the background."""

    def result(self) -> Any:
        """Wait until it is committed, and raise what it failed with."""


def tree_sha256(tree: Any) -> str:
    """Hash every path, dtype, shape and bit of a tree, whatever mesh it lies on.

    Leaves are gathered a slice at a time, so none is whole anywhere; all processes have to call this together.

    Args:
        tree: arrays, random keys included.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import numpy as np
        >>> tree_sha256({"a": np.zeros(2, np.float32)}) == tree_sha256({"a": np.zeros(2, np.float32)})
        True
        >>> tree_sha256({"a": np.zeros(2, np.float32)}) == tree_sha256({"a": -np.zeros(2, np.float32)})
        False
    """
    leaves = {}
    for path, leaf in flatten(tree).items():
        value, dtype = as_numbers(path, leaf)
        hashed = hashlib.sha256()
        for piece in processes.slices(value):
            hashed.update(bytes_of(piece))
        leaves[path] = {"dtype": dtype, "shape": list(value.shape), "sha256": hashed.hexdigest()}
    return digest(leaves)


def flatten(tree: Any) -> dict[str, Any]:
    """List the leaves by path, in the tree's order; a CheckpointError where two paths read the same."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise CheckpointError("two leaves of the tree have the same path; use keys without '/'")
    return named


def as_numbers(path: str, leaf: Any) -> tuple[Any, str]:
    """Give an array's numbers and its dtype, of which those of a random key differ; a CheckpointError for no array."""
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise CheckpointError(f"leaf {path!r} is a {type(leaf).__name__}, not an array; put plain values into host")
    dtype = str(leaf.dtype)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return (leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)), dtype


def part(path: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Take an object that ``write`` was given; Damaged where it is not there."""
    found = manifest.get(name)
    if not isinstance(found, dict):
        raise Damaged(f"{path}: field {name!r} of the manifest should be an object, found {found!r:.80}")
    return found


def digest(value: Any) -> str:
    """Hash a JSON value with SHA-256, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write(path: Path, tree: Mapping[str, Any], body: Mapping[str, Any]) -> Writing:
    """Write leaves and JSON values into a folder that has its name only once it is complete.

    Args:
        path: the folder, which all processes see.
        tree: arrays by path; they may be donated as soon as this returns.
        body: JSON values; those of the first process are written.

    Returns:
        The save, which goes on in the background.

    Raises:
        CheckpointError: a leaf is no array.
    """
    numbers = {name: as_numbers(name, leaf) for name, leaf in tree.items()}
    leaves = {name: _to_save(value) for name, (value, _) in numbers.items()}
    manifest = {**body, "leaves": entries(leaves, {name: dtype for name, (_, dtype) in numbers.items()})}
    text = json.dumps({"sha256": digest(manifest), "manifest": manifest})
    # Numbered, because Orbax has its own ideas about slashes in names; empty arrays it cannot store, and need not.
    arrays = {f"{i:05d}": leaf for i, leaf in enumerate(leaves.values()) if leaf.size}
    manifest_bytes = np.frombuffer(text.encode(), np.uint8)
    return ocp.save_checkpointables_async(path, {"arrays": arrays, "manifest": {"json": manifest_bytes}})


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn whatever a write fails with into a CheckpointError that names the folder and says what to do."""
    try:
        yield
    except (CheckpointError, processes.OtherProcessError, processes.LostProcessError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # the file system's errors come as any type, through Orbax and tensorstore
        said = str(error).splitlines()[0][:300] if str(error) else ""
        raise CheckpointError(
            f"{path} could not be saved ({type(error).__name__}: {said}); what was saved before is as it was: make "
            "room, or make the folder writable, and run the same command again"
        ) from error


def _to_save(value: Any) -> Any:
    """Make a leaf what Orbax saves in the background: an array that nobody else will change."""
    if not isinstance(value, jax.Array):
        return np.array(value)
    if value.is_fully_addressable and processes.several():
        return np.array(value)  # every process has the whole of it, and the first writes it
    # On CPU the host's view of an array is the array: without a copy, donating it would change what is written.
    return jnp.copy(value) if next(iter(value.devices())).platform == "cpu" else value


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the JSON values that ``write`` was given, with an entry for every leaf; Damaged where they are not those."""
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist")
    _need_devices(path)
    try:
        text = ocp.load_checkpointables(path, {"manifest": None})["manifest"]["json"]
        record = json.loads(np.asarray(text).tobytes())
        whole = record["sha256"] == digest(record["manifest"])
    except Exception as error:  # it is reported, never passed over
        raise unreadable(f"{path}", error) from error
    if not whole:
        raise Damaged(f"{path}: the manifest is not what was written")
    if wrong := fault(record["manifest"]):
        raise Damaged(f"{path}: the manifest is none of ours: {wrong}")
    return record["manifest"]


def _need_devices(path: Path) -> None:
    """Raise a CheckpointError where JAX has no devices, without which Orbax reads nothing."""
    try:
        jax.devices()
    except Exception as error:  # a backend that cannot start raises what it likes
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise MachineFault(
            f"{path} was not read: JAX finds no devices here ({type(error).__name__}: {error!s:.200})"
            f"{f'; JAX_PLATFORMS={asked} asks for some that are not there' if asked else ''}"
        ) from error


def shapes_of(manifest: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """List the leaves of a manifest by path, as shapes; a random key is the numbers that make it."""
    return {
        name: jax.ShapeDtypeStruct(tuple(entry["shape"]), _stored_dtype(entry))
        for name, entry in manifest["leaves"].items()
    }


def read(path: Path, manifest: Mapping[str, Any], shardings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read and verify the leaves by path.

    Args:
        path: the folder.
        manifest: what ``read_manifest`` found there.
        shardings: where each goes, by path, or None for numpy arrays: every process then has the whole.

    Returns:
        Arrays by path; random keys as key arrays.

    Raises:
        Damaged: a leaf is not what was saved.
    """
    places: Mapping[str, Any] = dict.fromkeys(manifest["leaves"]) if shardings is None else shardings
    shapes = shapes_of(manifest)
    numbers = {name: f"{i:05d}" for i, name in enumerate(shapes)}
    try:
        stored = {numbers[name]: _target(shape, places[name]) for name, shape in shapes.items() if 0 not in shape.shape}
        arrays = ocp.load_checkpointables(path, {"arrays": stored})["arrays"] if stored else {}
    except Exception as error:  # as above
        raise unreadable(f"{path}", error) from error
    leaves: dict[str, Any] = {}
    for i, (name, entry) in enumerate(manifest["leaves"].items()):
        value = arrays.get(numbers[name])
        if value is None:
            value = np.zeros(shapes[name].shape, shapes[name].dtype)
            value = value if places[name] is None else processes.put(value, places[name])
        said = (str(value.dtype), list(value.shape))
        if said != (str(shapes[name].dtype), entry["shape"]):
            raise Damaged(
                f"{path}: leaf {name!r} is {said[0]}{said[1]}, but {entry['dtype']}{entry['shape']} was written"
            )
        try:
            wrong = wrong_piece(value, entry, path / "arrays", i)
        except Exception as error:  # as above
            raise unreadable(f"{path}: leaf {name!r}", error) from error
        if wrong is not None:
            raise Damaged(f"{path}: sha256 of leaf {name!r}{wrong}")
        leaves[name] = _as_key(value, entry["dtype"]) if entry["dtype"].startswith("key<") else value
    return leaves


def _stored_dtype(entry: Mapping[str, Any]) -> np.dtype:
    return np.dtype(np.uint32) if entry["dtype"].startswith("key<") else np.dtype(entry["dtype"])


def _target(shape: jax.ShapeDtypeStruct, sharding: Any) -> Any:
    if sharding is None:
        return np.empty(shape.shape, shape.dtype)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _as_key(value: Any, dtype: str) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(value), impl=_key_impl(dtype))


def _key_impl(dtype: str) -> str:
    """Find the name of a key's generator by its dtype, ``key<fry>``: dtypes print the generator's short tag."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if str(jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype) == dtype:
            return name
    raise CheckpointError(f"random keys of type {dtype} are not known to this version of jax")


def check(path: Path, manifest: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    """Raise a CheckpointError where a manifest has other paths, shapes or dtypes than a tree's leaves."""
    saved = manifest["leaves"]
    if set(like) != set(saved):
        missing, extra = sorted(set(like) - set(saved)), sorted(set(saved) - set(like))
        raise CheckpointError(
            f"{path} holds another tree: it lacks {missing[:3]} and has {extra[:3]} besides; "
            "use the code and config it was made with, or another folder"
        )
    for name, leaf in like.items():
        entry = saved[name]
        shape = tuple(entry["shape"])
        if entry["dtype"].startswith("key<"):
            shape = shape[:-1]  # the last axis holds the numbers of one key
        expected, found = (str(leaf.dtype), tuple(leaf.shape)), (entry["dtype"], shape)
        if expected != found:
            raise CheckpointError(
                f"{path}: leaf {name!r} is {found[0]}{list(found[1])}, "
                f"this run needs {expected[0]}{list(expected[1])}; "
                "use the code and config it was made with, or another folder"
            )
