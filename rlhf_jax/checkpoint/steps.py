"""The checkpoints of one stage: saved in the background, refused under another config, verified when restored."""

from __future__ import annotations

import functools
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import processes
from rlhf_jax.checkpoint.leaves import (
    TEMPORARY,
    Damaged,
    Writing,
    check,
    flatten,
    part,
    read,
    read_manifest,
    saving,
    write,
)
from rlhf_jax.files import CheckpointError


class Restored(NamedTuple):
    """What ``Checkpoints.restore`` found: the step, its tree and its JSON values."""

    step: int
    tree: Any
    host: dict[str, Any]


class Checkpoints:
    """The checkpoints of one stage: a folder ``DIRECTORY/STEP`` for each of the newest few steps.

    Args:
        directory: a folder of their own; made if needed.
        fingerprint: the config, as JSON values: a checkpoint of another config is refused. Leave out what may change
            between a run and its continuation (output paths, how often to save).
        keep: how many steps stay on disk; with 2, there is an earlier one to fall back to.
        brought_up: turns a fingerprint that an earlier version saved into one with the fields of this version.

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

    def __init__(
        self,
        directory: str | Path,
        *,
        fingerprint: Mapping[str, Any],
        keep: int = 2,
        brought_up: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self.directory = Path(directory).resolve()
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._keep = keep
        self._brought_up = brought_up
        self._pending: tuple[Path, Writing] | None = None

    def save(self, step: int, tree: Any, host: Mapping[str, Any]) -> None:
        """Copy what this process holds to its host, then write in the background; the next ``save`` or ``wait`` waits.

        Args:
            step: number of updates done; names the folder. An older checkpoint of the same step is replaced.
            tree: arrays and random keys. They may be donated as soon as this returns.
            host: JSON values that belong to the step, the same in every process.

        Raises:
            CheckpointError: a leaf is not an array, or this save or the one before cannot be written.
        """
        self.wait()
        body = json.loads(json.dumps({"step": step, "host": dict(host), "fingerprint": self._fingerprint}))
        with saving(self.directory):
            processes.from_first(lambda: self._make_room(step), f"saving {self.directory / str(step)}")
        path = self.directory / str(step)
        with saving(path):
            self._pending = path, write(path, flatten(tree), body)

    def wait(self) -> None:
        """Block until the last save is committed, and remove the steps that are one too many.

        Raises:
            CheckpointError: it could not be written (disk full, say); earlier steps are as they were.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        path, writing = pending
        with saving(path):
            writing.result()
        if processes.first():
            for old in self.steps()[: -self._keep]:
                shutil.rmtree(self.directory / str(old), ignore_errors=True)  # the next save tries again

    def steps(self) -> list[int]:
        """List the committed steps, oldest first.

        Returns:
            Steps that have a folder under their own name, which Orbax gives it once it is complete. ``restore`` finds
            out whether the content is still whole.
        """
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

    def restore(self, like: Any, shardings: Any = None) -> Restored | None:
        """Read the newest checkpoint that verifies.

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
        for step in processes.from_first(lambda: self.steps()[::-1], f"looking for checkpoints in {self.directory}"):
            path = self.directory / str(step)
            try:
                found = functools.partial(self._read, path, step, like, shardings)
                return processes.agree(found, str(path))
            except (Damaged, processes.OtherProcessError) as error:
                if not isinstance(error, Damaged) and f"({Damaged.__name__}: " not in str(error):
                    raise  # another process could not read what may be whole
                reasons.append(str(error))
                warnings.warn(f"{error}; falling back to the step before", stacklevel=2)
        if reasons:
            raise CheckpointError(
                f"none of the {len(reasons)} checkpoints in {self.directory} verifies ({'; '.join(reasons)}); bring "
                "one back from a copy, or start this stage again in another folder"
            )
        return None

    def _read(self, path: Path, step: int, like: Any, shardings: Any) -> Restored:
        manifest, wanted = read_manifest(path), flatten(like)
        fingerprint, host = (part(path, manifest, name) for name in ("fingerprint", "host"))
        if manifest.get("step", step) != step:
            raise CheckpointError(
                f"{path} holds the checkpoint of step {manifest['step']}: the folder was renamed; give it its name back"
            )
        differ = differences(self._brought_up(fingerprint), self._fingerprint)
        if differ:
            raise CheckpointError(
                f"{path} was made with another config: {'; '.join(differ)}. "
                "Use the config it was made with, or another folder"
            )
        check(path, manifest, wanted)
        if shardings is None:
            # numpy arrays in ``like`` are nowhere in particular: they come back on the default device.
            places = {name: None if isinstance(leaf, np.ndarray) else leaf.sharding for name, leaf in wanted.items()}
        else:
            places = flatten(jax.tree.broadcast(shardings, like))
        found = read(path, manifest, places)
        leaves = {name: x if isinstance(x, jax.Array) else jax.device_put(x) for name, x in found.items()}
        tree = jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])
        return Restored(step, tree, host)

    def _make_room(self, step: int) -> None:
        """Remove what a killed run left half-written, and steps of a future that a fallback gave up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if TEMPORARY in path.name or (path.name.isdecimal() and int(path.name) >= step):
                shutil.rmtree(path)


def differences(was: Any, now: Any, path: str = "") -> list[str]:
    """List the fields in which two JSON values differ.

    Args:
        was: the earlier value.
        now: the later one.
        path: the text to put before every field's name.

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
