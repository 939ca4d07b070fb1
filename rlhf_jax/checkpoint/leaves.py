"""A tree of arrays in a folder that verifies: leaves by path, each with its dtype, shape and SHA-256, and a manifest.

This is the only importer of Orbax. Orbax writes and commits; what it does not promise is added here: a SHA-256 of
every leaf (it restores a flipped bit silently), exact dtypes (it casts silently) and random keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from rlhf_jax.checkpoint.manifest import fault
from rlhf_jax.files import CheckpointError

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax puts this into the name of a folder that is not committed yet


class Damaged(CheckpointError):
    """What is on disk is not what was saved."""


class SavedLeaf(NamedTuple):
    """A leaf on the host, with the dtype that the manifest gives it."""

    value: np.ndarray
    dtype: str

    @property
    def entry(self) -> dict[str, Any]:
        """The leaf's entry in the manifest: its dtype, shape and SHA-256."""
        # The bytes are hashed as they lie in memory: row-major, on a little-endian machine.
        sha256 = hashlib.sha256(np.ascontiguousarray(self.value).view(np.uint8).data if self.value.size else b"")
        return {"dtype": self.dtype, "shape": list(self.value.shape), "sha256": sha256.hexdigest()}


def tree_sha256(tree: Any) -> str:
    """Hash every path, dtype, shape and bit of a tree, whatever mesh it lies on.

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
    leaves = {path: to_host(path, leaf, copy=False).entry for path, leaf in flatten(tree).items()}
    return digest(leaves)


def flatten(tree: Any) -> dict[str, Any]:
    """List the leaves by path, in the tree's order; a CheckpointError where two paths read the same."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise CheckpointError("two leaves of the tree have the same path; use keys without '/'")
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(path: str, leaf: Any, *, copy: bool) -> SavedLeaf:
    """Bring a leaf to the host; a CheckpointError where it is no array, or not all of it is in this process."""
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise CheckpointError(f"leaf {path!r} is a {type(leaf).__name__}, not an array; put plain values into host")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise CheckpointError(f"leaf {path!r} is spread over several processes; gather it before it is saved")
    dtype = str(leaf.dtype)
    if _is_key(leaf):
        leaf = jax.random.key_data(jnp.asarray(leaf))
    # On CPU the host's view of an array is the array: without a copy, donating it would change what is written.
    return SavedLeaf(np.array(leaf, copy=True) if copy else np.asarray(leaf), dtype)


def part(path: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Take an object that ``write`` was given; Damaged where it is not there."""
    found = manifest.get(name)
    if not isinstance(found, dict):
        raise Damaged(f"{path}: field {name!r} of the manifest should be an object, found {found!r:.80}")
    return found


def digest(value: Any) -> str:
    """Hash a JSON value with SHA-256, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write(path: Path, leaves: Mapping[str, SavedLeaf], body: Mapping[str, Any]) -> None:
    """Write leaves and JSON values into a folder that has its name only once it is complete."""
    manifest = {**body, "leaves": {name: leaf.entry for name, leaf in leaves.items()}}
    text = json.dumps({"sha256": digest(manifest), "manifest": manifest})
    # Numbered, because Orbax has its own ideas about slashes in names; empty arrays it cannot store, and need not.
    arrays = {f"{i:05d}": leaf.value for i, leaf in enumerate(leaves.values()) if leaf.value.size}
    manifest_bytes = np.frombuffer(text.encode(), np.uint8)
    ocp.save_checkpointables(path, {"arrays": arrays, "manifest": {"json": manifest_bytes}})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the JSON values that ``write`` was given, with an entry for every leaf; Damaged where they are not those."""
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist")
    try:
        text = ocp.load_checkpointables(path, {"manifest": None})["manifest"]["json"]
        record = json.loads(np.asarray(text).tobytes())
        whole = record["sha256"] == digest(record["manifest"])
    except Exception as error:  # damage can surface as any error in any layer; it is reported, never passed over
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    if not whole:
        raise Damaged(f"{path}: the manifest is not what was written")
    if wrong := fault(record["manifest"]):
        raise Damaged(f"{path}: the manifest is none of ours: {wrong}")
    return record["manifest"]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and verify the leaves by path, as numpy arrays (keys as key arrays), and the manifest."""
    manifest = read_manifest(path)
    try:
        arrays: Any = dict(ocp.load_checkpointables(path, {"arrays": None})["arrays"])
    except Exception as error:  # as above
        raise Damaged(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    leaves: dict[str, Any] = {}
    for i, (name, entry) in enumerate(manifest["leaves"].items()):
        is_key = entry["dtype"].startswith("key<")
        if 0 in entry["shape"]:
            value = np.zeros(entry["shape"], np.uint32 if is_key else np.dtype(entry["dtype"]))
        elif (value := arrays.get(f"{i:05d}")) is None:
            raise Damaged(f"{path}: leaf {name!r} is missing")
        else:
            value = np.asarray(value)
        found = SavedLeaf(value, entry["dtype"] if is_key and value.dtype == np.uint32 else str(value.dtype)).entry
        if found != entry:
            what = next(field for field in ("dtype", "shape", "sha256") if found[field] != entry[field])
            raise Damaged(f"{path}: {what} of leaf {name!r} is {found[what]}, but {entry[what]} was written")
        leaves[name] = jax.random.wrap_key_data(jnp.asarray(value), impl=_key_impl(entry["dtype"])) if is_key else value
    return leaves, manifest


def _key_impl(dtype: str) -> str:
    """Find the name of a key's generator by its dtype, ``key<fry>``: dtypes print the generator's short tag."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if str(jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype) == dtype:
            return name
    raise CheckpointError(f"random keys of type {dtype} are not known to this version of jax")


def unflatten(path: Path, leaves: Mapping[str, Any], like: Any, shardings: Any) -> Any:
    """Build a tree like ``like`` on the devices; a CheckpointError where paths, shapes or dtypes are others."""
    wanted = flatten(like)
    if set(wanted) != set(leaves):
        missing, extra = sorted(set(wanted) - set(leaves)), sorted(set(leaves) - set(wanted))
        raise CheckpointError(
            f"{path} holds another tree: it lacks {missing[:3]} and has {extra[:3]} besides; "
            "use the code and config it was made with, or another folder"
        )
    for name, leaf in wanted.items():
        expected, found = (str(leaf.dtype), tuple(leaf.shape)), (str(leaves[name].dtype), leaves[name].shape)
        if expected != found:
            raise CheckpointError(
                f"{path}: leaf {name!r} is {found[0]}{list(found[1])}, "
                f"this run needs {expected[0]}{list(expected[1])}; "
                "use the code and config it was made with, or another folder"
            )
    if shardings is None:
        # numpy arrays in ``like`` are nowhere in particular: they come back on the default device.
        places = [None if isinstance(leaf, np.ndarray) else leaf.sharding for leaf in wanted.values()]
        values = [jax.device_put(leaves[name], place) for name, place in zip(wanted, places, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(like), values)
    tree = jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])
    return jax.device_put(tree, shardings)
