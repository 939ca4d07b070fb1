"""Checkpoints that can be trusted: atomic, verified leaf by leaf, and bound to the config that made them.

The only importer of Orbax. Orbax writes and commits; what it does not promise is added here: a SHA-256 of every leaf
(it restores a flipped bit silently), exact dtypes (it casts silently), random keys, and falling back to the step before
when the newest does not verify.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from rlhf_jax.types import Params

_TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax puts this into the name of a folder that is not committed yet


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder, what is wrong and what to do."""


class _Damaged(CheckpointError):
    """What is on disk is not what was saved."""


class Restored(NamedTuple):
    """What ``Checkpoints.restore`` found."""

    step: int
    tree: Any
    host: dict[str, Any]


class _Leaf(NamedTuple):
    """A leaf on the host, with the dtype it goes by in the manifest."""

    value: np.ndarray
    dtype: str

    @property
    def entry(self) -> dict[str, Any]:
        # The bytes are hashed as they lie in memory: row-major, on a little-endian machine.
        digest = hashlib.sha256(np.ascontiguousarray(self.value).view(np.uint8).data if self.value.size else b"")
        return {"dtype": self.dtype, "shape": list(self.value.shape), "sha256": digest.hexdigest()}


def tree_sha256(tree: Any) -> str:
    """A hash of every path, dtype, shape and bit of a tree, whatever mesh it lies on.

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
    leaves = {path: _to_host(path, leaf, copy=False).entry for path, leaf in _flatten(tree).items()}
    return _digest(leaves)


class Checkpoints:
    """The checkpoints of one stage: ``DIRECTORY/STEP``, the newest few.

    Args:
      directory: a folder of their own; made if needed.
      fingerprint: the config, as JSON values: a checkpoint of another config is refused. Leave out what may change
        between a run and its continuation (output paths, how often to save).
      keep: how many steps stay on disk; with 2, one is there to fall back to.

    Raises:
      ValueError: keep is below 1.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoints = Checkpoints(folder, fingerprint={"seed": 0})
      ...     checkpoints.save(10, {"x": jnp.arange(3.0)}, {"best": 0.5})
      ...     checkpoints.wait()
      ...     found = checkpoints.restore({"x": jnp.zeros(3)})
      >>> found.step, found.tree["x"].tolist(), found.host
      (10, [0.0, 1.0, 2.0], {'best': 0.5})
    """

    def __init__(self, directory: str | Path, *, fingerprint: Mapping[str, Any], keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self.directory = Path(directory).resolve()
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._keep = keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tree: Any, host: Mapping[str, Any]) -> None:
        """Copies everything to the host, then writes in the background; the next ``save`` or ``wait`` waits for it.

        Args:
          step: number of updates done; names the folder. An older checkpoint of the same step is replaced.
          tree: arrays and random keys. They may be donated as soon as this returns.
          host: JSON values that belong to the step.

        Raises:
          CheckpointError: a leaf is not an array, or is spread over several processes.
          Exception: whatever the save before failed with.
        """
        self.wait()
        leaves = {path: _to_host(path, leaf, copy=True) for path, leaf in _flatten(tree).items()}
        body = json.dumps({"step": step, "host": dict(host), "fingerprint": self._fingerprint})
        self._pending = self._writer.submit(self._save, step, leaves, json.loads(body))

    def wait(self) -> None:
        """Blocks until the last save is committed.

        Raises:
          Exception: whatever that save failed with (disk full, say).
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def steps(self) -> list[int]:
        """The committed steps, oldest first.

        Returns:
          Steps that have a folder under their own name, which Orbax gives it once it is complete. Whether the content
          is still whole is found out by ``restore``.
        """
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

    def restore(self, like: Any, shardings: Any = None) -> Restored | None:
        """The newest checkpoint that verifies.

        Args:
          like: a tree of arrays, or of ``jax.ShapeDtypeStruct``, with the shapes and dtypes to expect.
          shardings: where to put the leaves: one sharding, a tree of them, or None for where the leaves of ``like``
            are. The mesh may differ from the one that saved.

        Returns:
          Step, tree and host values, or None when nothing was saved yet. A step that does not verify is passed over
          with a warning.

        Raises:
          CheckpointError: the config differs (the message names the fields), the tree has other leaves, shapes or
            dtypes than were saved, or no step verifies.
        """
        self.wait()
        reasons = []
        for step in reversed(self.steps()):
            try:
                leaves, body = _read(self.directory / str(step))
            except _Damaged as error:
                reasons.append(str(error))
                warnings.warn(f"{error}; falling back to the step before", stacklevel=2)
                continue
            differ = differences(body["fingerprint"], self._fingerprint)
            if differ:
                raise CheckpointError(
                    f"{self.directory / str(step)} was made with another config: {'; '.join(differ)}. "
                    "Use the config it was made with, or another folder"
                )
            return Restored(step, _unflatten(self.directory / str(step), leaves, like, shardings), body["host"])
        if reasons:
            raise CheckpointError(
                f"none of the {len(reasons)} checkpoints in {self.directory} verifies ({reasons[0]}); "
                "delete the folder to start this stage again"
            )
        return None

    def _save(self, step: int, leaves: dict[str, _Leaf], body: dict[str, Any]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            # What a killed run left half-written, or steps of a future that a fallback gave up.
            if _TEMPORARY in path.name or (path.name.isdecimal() and int(path.name) >= step):
                shutil.rmtree(path)
        _write(self.directory / str(step), leaves, body)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.directory / str(old))


def save_params(path: str | Path, params: Params, metadata: Mapping[str, Any]) -> None:
    """Writes parameters to a folder, in one piece: readers see the old folder, none, or the new one.

    Args:
      path: the folder; one that is there is replaced.
      params: nested dicts of arrays.
      metadata: JSON values to keep with them.

    Raises:
      CheckpointError: a node is not a dict with plain text keys, or a leaf not an array.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_params(folder + "/params", {"policy": {"x": jnp.ones(2)}}, {"seed": 0})
      ...     params, metadata = load_params(folder + "/params")
      >>> params["policy"]["x"].tolist(), metadata
      ([1.0, 1.0], {'seed': 0})
    """
    path = Path(path).resolve()
    leaves = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [key.key if isinstance(key, jax.tree_util.DictKey) else None for key in keys]
        if not names or not all(isinstance(name, str) and name and "/" not in name for name in names):
            raise CheckpointError(
                f"params must be nested dicts whose keys are text without '/', found {jax.tree_util.keystr(keys)}"
            )
        name = "/".join(str(name) for name in names)
        leaves[name] = _to_host(name, leaf, copy=False)
    # A folder cannot be replaced in one step, so the new one is complete before the old one steps aside.
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for leftover in (new, old, *path.parent.glob(f".{path.name}.new{_TEMPORARY}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(new, leaves, {"metadata": dict(metadata)})
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_params(path: str | Path, shardings: Any = None) -> tuple[Params, dict[str, Any]]:
    """Reads parameters that ``save_params`` wrote, and verifies every leaf.

    Args:
      path: the folder.
      shardings: where to put them: one sharding, a tree of them, or None for the default device.

    Returns:
      Nested dicts of jax arrays, and the metadata.

    Raises:
      CheckpointError: the folder is missing, or holds something else than was written.

    Example:
      See ``save_params``.
    """
    leaves, body = _read(Path(path).resolve())
    params: Params = {}
    for name, leaf in leaves.items():
        *above, last = name.split("/")
        node = params
        for key in above:
            node = node.setdefault(key, {})
        node[last] = leaf
    return jax.device_put(params, shardings), body["metadata"]


def load_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that ``save_params`` wrote, without reading the parameters.

    Args:
      path: the folder.

    Returns:
      The JSON values.

    Raises:
      CheckpointError: the folder is missing, or its manifest is damaged.

    Example:
      >>> import tempfile, numpy as np
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_params(folder + "/params", {"x": np.ones(2)}, {"seed": 0})
      ...     load_metadata(folder + "/params")
      {'seed': 0}
    """
    return _read_manifest(Path(path).resolve())["metadata"]


def params_digest(path: str | Path) -> str:
    """A hash of what ``save_params`` wrote, metadata included, without reading the parameters.

    Args:
      path: the folder.

    Returns:
      64 hexadecimal digits, the same for the same content.

    Raises:
      CheckpointError: the folder is missing, or its manifest is damaged.

    Example:
      >>> import tempfile, numpy as np
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_params(folder + "/a", {"x": np.ones(2)}, {"seed": 0})
      ...     save_params(folder + "/b", {"x": np.ones(2)}, {"seed": 1})
      ...     params_digest(folder + "/a") == params_digest(folder + "/b")
      False
    """
    return _digest(_read_manifest(Path(path).resolve()))


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise CheckpointError("two leaves of the tree have the same path; use keys without '/'")
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(path: str, leaf: Any, *, copy: bool) -> _Leaf:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise CheckpointError(f"leaf {path!r} is a {type(leaf).__name__}, not an array; put plain values into host")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise CheckpointError(f"leaf {path!r} is spread over several processes; gather it before it is saved")
    dtype = str(leaf.dtype)
    if _is_key(leaf):
        leaf = jax.random.key_data(jnp.asarray(leaf))
    # On CPU the host's view of an array is the array: without a copy, donating it would change what is written.
    return _Leaf(np.array(leaf, copy=True) if copy else np.asarray(leaf), dtype)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(path: Path, leaves: Mapping[str, _Leaf], body: Mapping[str, Any]) -> None:
    manifest = {**body, "leaves": {name: leaf.entry for name, leaf in leaves.items()}}
    text = json.dumps({"sha256": _digest(manifest), "manifest": manifest})
    # Numbered, because Orbax has its own ideas about slashes in names; empty arrays it cannot store, and need not.
    arrays = {f"{i:05d}": leaf.value for i, leaf in enumerate(leaves.values()) if leaf.value.size}
    manifest_bytes = np.frombuffer(text.encode(), np.uint8)
    ocp.save_checkpointables(path, {"arrays": arrays, "manifest": {"json": manifest_bytes}})


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist")
    try:
        text = ocp.load_checkpointables(path, {"manifest": None})["manifest"]["json"]
        record = json.loads(np.asarray(text).tobytes())
        whole = record["sha256"] == _digest(record["manifest"])
    except Exception as error:  # damage can surface as any error in any layer; it is reported, never passed over
        raise _Damaged(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    if not whole:
        raise _Damaged(f"{path}: the manifest is not what was written")
    return record["manifest"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaves by path as numpy arrays (keys as key arrays), verified, and the manifest."""
    manifest = _read_manifest(path)
    try:
        arrays = ocp.load_checkpointables(path, {"arrays": None})["arrays"]
    except Exception as error:  # as above
        raise _Damaged(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    leaves: dict[str, Any] = {}
    for i, (name, entry) in enumerate(manifest["leaves"].items()):
        is_key = entry["dtype"].startswith("key<")
        if 0 in entry["shape"]:
            value = np.zeros(entry["shape"], np.uint32 if is_key else np.dtype(entry["dtype"]))
        elif (value := arrays.get(f"{i:05d}")) is None:
            raise _Damaged(f"{path}: leaf {name!r} is missing")
        else:
            value = np.asarray(value)
        found = _Leaf(value, entry["dtype"] if is_key and value.dtype == np.uint32 else str(value.dtype)).entry
        if found != entry:
            what = next(field for field in ("dtype", "shape", "sha256") if found[field] != entry[field])
            raise _Damaged(f"{path}: {what} of leaf {name!r} is {found[what]}, but {entry[what]} was written")
        leaves[name] = jax.random.wrap_key_data(jnp.asarray(value), impl=_key_impl(entry["dtype"])) if is_key else value
    return leaves, manifest


def _key_impl(dtype: str) -> str:
    """The name of a key's generator from its dtype, ``key<fry>``: dtypes print the generator's short tag."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if str(jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype) == dtype:
            return name
    raise CheckpointError(f"random keys of type {dtype} are not known to this version of jax")


def _unflatten(path: Path, leaves: Mapping[str, Any], like: Any, shardings: Any) -> Any:
    wanted = _flatten(like)
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


def differences(was: Any, now: Any, path: str = "") -> list[str]:
    """The fields in which two JSON values differ.

    Args:
      was: the earlier value.
      now: the later one.
      path: put before every field's name.

    Returns:
      A phrase a field: its path, what it was and what it is.

    Example:
      >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
      ['a.b was 1 and is now 3']
    """
    if isinstance(was, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*was, *now}):
            where = f"{path}.{key}" if path else key
            if key not in was:
                found.append(f"{where} is new ({json.dumps(now[key])})")
            elif key not in now:
                found.append(f"{where} is gone (was {json.dumps(was[key])})")
            else:
                found += differences(was[key], now[key], where)
        return found
    return [] if was == now else [f"{path} was {json.dumps(was)} and is now {json.dumps(now)}"]
