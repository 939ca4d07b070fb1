"""Parameters that stay on the disk until somebody asks for a part of them: a model is never whole in memory."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.checkpoint.leaves import Damaged, part, read_manifest, shapes_of, unreadable
from rlhf_jax.checkpoint.params import nested
from rlhf_jax.checkpoint.pieces import expected, open_stored, slices
from rlhf_jax.types import Params

_AT_ONCE = 2**26  # bytes that are read and hashed at a time


class StoredLeaf:
    """An array on the disk: ``leaf[i]`` reads that entry of its first axis, ``np.asarray(leaf)`` all of it.

    Args:
        array: an open tensorstore.
        dtype: what is read is converted to.
    """

    def __init__(self, array: Any, dtype: np.dtype):
        self._array, self.dtype, self.shape = array, dtype, tuple(array.shape)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """How large it is once it is read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def astype(self, dtype: Any) -> StoredLeaf:
        """Name the type that it is to be read in; nothing is read yet."""
        return StoredLeaf(self._array, np.dtype(dtype))

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._array[index].read().result()).astype(self.dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what was read just now is nobody else's
        return self[...].astype(self.dtype if dtype is None else dtype, copy=False)


def stored_params(path: str | Path) -> tuple[Params, dict[str, Any]]:
    """Open parameters that ``save_params`` wrote, verify them piece by piece, and leave them where they are.

    Args:
        path: the folder.

    Returns:
        Nested dicts of ``StoredLeaf``, and the metadata.

    Raises:
        CheckpointError: the folder is missing, or holds something else than was written.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.checkpoint import save_params
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_params(folder + "/params", {"x": np.arange(6.0).reshape(3, 2)}, {"seed": 0})
        ...     params, metadata = stored_params(folder + "/params")
        ...     params["x"].shape, params["x"][1].tolist(), metadata
        ((3, 2), [2.0, 3.0], {'seed': 0})
    """
    path = Path(path).resolve()
    manifest = read_manifest(path)
    leaves: dict[str, Any] = {}
    for number, (name, shape) in enumerate(shapes_of(manifest).items()):
        if 0 in shape.shape:
            leaves[name] = np.zeros(shape.shape, shape.dtype)
            continue
        try:
            leaf = StoredLeaf(open_stored(path / "arrays", number), np.dtype(shape.dtype))
            same = leaf.shape == shape.shape and _verifies(leaf, manifest["leaves"][name])
        except Exception as error:  # damage can surface as any error in any layer; it is reported, never passed over
            raise unreadable(f"{path}: leaf {name!r}", error) from error
        if not same:
            raise Damaged(f"{path}: leaf {name!r} is not what was written: its SHA-256 is another")
        leaves[name] = leaf
    return nested(path, leaves), part(path, manifest, "metadata")


def _verifies(leaf: StoredLeaf, entry: dict[str, Any]) -> bool:
    for bounds, sha256 in expected(entry).items():
        digest, places = hashlib.sha256(), slices(bounds)
        row = leaf.dtype.itemsize * math.prod(b - a for a, b in bounds[1:])
        step = max(1, _AT_ONCE // row)
        first, last = bounds[0] if bounds else (0, 1)
        for start in range(first, last, step):
            rows = (slice(start, min(start + step, last)), *places[1:]) if bounds else ()
            digest.update(np.ascontiguousarray(leaf[rows]).reshape(-1).view(np.uint8).data)
        if digest.hexdigest() != sha256:
            return False
    return True
