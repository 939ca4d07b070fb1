"""Finished parameters with their metadata, in a folder that is replaced in one piece."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from rlhf_jax import processes
from rlhf_jax.checkpoint.leaves import (
    TEMPORARY,
    Damaged,
    digest,
    flatten,
    part,
    read,
    read_manifest,
    saving,
    shapes_of,
    write,
)
from rlhf_jax.files import CheckpointError
from rlhf_jax.types import Params


def save_params(path: str | Path, params: Params, metadata: Mapping[str, Any]) -> None:
    """Write parameters to a folder, in one piece: readers see the old folder, none, or the new one.

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
        leaves[name] = leaf
    # A folder cannot be replaced in one step, so the new one is complete before the old one steps aside.
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))

    def make_room() -> None:
        for leftover in (new, old, *path.parent.glob(f".{path.name}.new{TEMPORARY}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)

    def take_place() -> None:
        if path.exists():
            path.rename(old)
        new.rename(path)
        shutil.rmtree(old, ignore_errors=True)

    with saving(path):
        processes.from_first(make_room, f"writing {path}")
        write(new, leaves, {"metadata": dict(metadata)}).result()
        processes.from_first(take_place, f"writing {path}")


def load_params(path: str | Path, shardings: Any = None) -> tuple[Params, dict[str, Any]]:
    """Read parameters that ``save_params`` wrote, and verify every leaf.

    Args:
        path: the folder.
        shardings: where to put them: one sharding, a function from the tree of their shapes to a tree of shardings, or
            None for the default device. With shardings, every process reads its own part.

    Returns:
        Nested dicts of jax arrays, and the metadata.

    Raises:
        CheckpointError: the folder is missing, or holds something else than was written.

    Example:
        See ``save_params``.
    """
    path = Path(path).resolve()
    manifest = read_manifest(path)
    about, shapes = part(path, manifest, "metadata"), nested(path, shapes_of(manifest))
    if shardings is None:
        return jax.device_put(nested(path, read(path, manifest))), about
    places = jax.tree.broadcast(shardings(shapes) if callable(shardings) else shardings, shapes)
    return nested(path, read(path, manifest, flatten(places))), about


def nested(path: Path, leaves: Mapping[str, Any]) -> Params:
    """Make nested dicts of what is known by its path in the tree."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *above, last = name.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise Damaged(f"{path}: leaf {name!r} stands below another leaf")
        if last in node:
            raise Damaged(f"{path}: leaf {name!r} stands above another leaf")
        node[last] = leaf
    return tree


def load_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata that ``save_params`` wrote, without reading the parameters.

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
    path = Path(path).resolve()
    return part(path, read_manifest(path), "metadata")


def params_digest(path: str | Path) -> str:
    """Hash what ``save_params`` wrote, metadata included, without reading the parameters.

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
    return digest(read_manifest(Path(path).resolve()))
