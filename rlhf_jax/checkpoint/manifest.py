"""What a checkpoint's manifest must say before anything is made of it: its hash shows damage, not who wrote it."""

from __future__ import annotations

import math
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

_LARGEST = 2**62  # bytes of a leaf; numpy counts them in 64 bits
_KEY = re.compile(r"key<\w+>")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fault(manifest: Any) -> str:
    """Say what is wrong with a manifest; empty where nothing is.

    Args:
        manifest: JSON values, of anybody's.

    Example:
        >>> leaf = {"dtype": "float32", "shape": [2], "sha256": "0" * 64}
        >>> fault({"leaves": {"a": leaf}}), fault({"leaves": {"a": {**leaf, "shape": [-2]}}})
        ('', "leaf 'a' has the shape [-2]")
    """
    leaves = manifest.get("leaves") if isinstance(manifest, dict) else None
    if not isinstance(leaves, dict):
        return "it lists no leaves"
    for name, entry in leaves.items():
        fields = set(entry) if isinstance(entry, dict) else set()
        if fields not in ({"dtype", "shape", "sha256"}, {"dtype", "shape", "pieces"}):
            return f"leaf {name!r:.80} should have dtype, shape and sha256 or pieces, found {entry!r:.80}"
        dtype, shape = entry["dtype"], entry["shape"]
        itemsize = _itemsize(dtype)
        if not itemsize:
            return f"leaf {name!r:.80} has the dtype {dtype!r:.80}"
        whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        if not whole or len(shape) > 32 or math.prod(filter(None, shape)) * itemsize > _LARGEST:
            return f"leaf {name!r:.80} has the shape {shape!r:.80}"
        if "pieces" in entry and not _cuts(entry["pieces"], shape):
            return f"leaf {name!r:.80} is cut into {entry['pieces']!r:.80}, which do not make {shape}"
        for sha256 in [entry["sha256"]] if "sha256" in entry else [piece["sha256"] for piece in entry["pieces"]]:
            if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                return f"leaf {name!r:.80} has the SHA-256 {sha256!r:.80}"
    return ""


def _cuts(pieces: Any, shape: list[int]) -> bool:
    """Tell whether these are pieces of an array: each inside it, no two the same, and together as large."""
    if not isinstance(pieces, list) or not all(isinstance(p, dict) and set(p) == {"at", "sha256"} for p in pieces):
        return False
    size = 0
    for piece in pieces:
        at = piece["at"]
        if not isinstance(at, list) or len(at) != len(shape):
            return False
        for bounds, length in zip(at, shape, strict=True):
            if not (isinstance(bounds, list) and len(bounds) == 2 and all(type(n) is int for n in bounds)):
                return False
            if not 0 <= bounds[0] < bounds[1] <= length:
                return False
        size += math.prod(b - a for a, b in at)
    return size == math.prod(shape) and len({str(piece["at"]) for piece in pieces}) == len(pieces)


def _itemsize(dtype: Any) -> int:
    """How many bytes a number of this type has; 0 for what is no type of numbers, such as ``object``."""
    if not isinstance(dtype, str):
        return 0
    if _KEY.fullmatch(dtype):
        return 4
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):  # numpy reads a type's text in several ways
        return 0
    number = found == np.bool_ or jnp.issubdtype(found, jnp.number)
    return found.itemsize if number and found.name == dtype else 0
