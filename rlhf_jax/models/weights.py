"""Files of weights: what a file holds is known before anything is read, and tensors come and go one at a time.

The safetensors format is eight bytes of header length, a JSON header and raw little-endian buffers, so reading and
writing it takes a few lines here: the checks name the file, and no more than one tensor is ever held. Pickles are never
opened, because opening one can run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes  # noqa: F401  # it makes bfloat16 a type that numpy knows by name
import numpy as np

from rlhf_jax.files import CheckpointError
from rlhf_jax.paths import inside

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
FLOATS = ("float32", "bfloat16", "float16")  # types of weights that are read and written
SMALL = 2**20  # bytes; arrays up to this size are moved whole

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
_MOST_AXES, _MOST_NUMBERS = 32, 2**59  # within what numpy counts in 64 bits, as bytes
_MIB = 2**20
_SLAB = _MIB


class TensorInfo(NamedTuple):
    """What is known of a tensor before it is read: its shape and type."""

    shape: tuple[int, ...]
    dtype: str  # as numpy calls it: float32, bfloat16

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class TensorSource(Protocol):
    """Named tensors somewhere, read one at a time."""

    where: str  # file or folder, for messages

    def names(self) -> Mapping[str, TensorInfo]:
        """List every tensor that is there, without reading any values."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Read the values of one tensor into an array of their own."""
        ...


class _Entry(NamedTuple):
    info: TensorInfo
    file: Path
    offset: int  # bytes from the start of the file


class _Safetensors:
    """Tensors of one or more safetensors files."""

    def __init__(self, where: str, entries: Mapping[str, _Entry]):
        self.where = where
        self._entries = entries

    def names(self) -> Mapping[str, TensorInfo]:
        return {name: entry.info for name, entry in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        info, file, offset = self._entries[name]
        flat = np.empty(info.nbytes, np.uint8)
        with file.open("rb") as opened:
            opened.seek(offset)
            got = opened.readinto(flat.data)
        if got != info.nbytes:
            raise CheckpointError(f"{file}: tensor {name}: {info.nbytes} bytes expected, {got} found; copy it anew")
        return flat.view(np.dtype(info.dtype)).reshape(info.shape)


def safetensors_source(folder: str | os.PathLike[str]) -> TensorSource:
    """Open the weights in a folder: ``model.safetensors``, or shards with their index.

    All headers are read and checked against the sizes of their files, so a download that broke off is found here.

    Args:
        folder: where ``model.safetensors`` or ``model.safetensors.index.json`` is.

    Returns:
        The source of its tensors; no values have been read.

    Raises:
        CheckpointError: there are no such weights, or a file is truncated, malformed or not what the index says.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     values = np.arange(3, dtype=np.float32)
        ...     names = {"x": TensorInfo(values.shape, "float32")}
        ...     write_safetensors(Path(folder) / "model.safetensors", names, lambda name: values)
        ...     source = safetensors_source(folder)
        ...     source.names()["x"].shape, source.read("x")
        ((3,), array([0., 1., 2.], dtype=float32))
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():
        return safetensors_file(folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder}: {_what_instead(folder)}")
    return _Safetensors(str(folder / INDEX), _sharded(folder / INDEX))


def _what_instead(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if "adapter_config.json" in names:
        return "this is a LoRA adapter without the model it belongs to; load that model first, then the adapter"
    if shards:
        return f"{shards[0]} is there, but neither {SINGLE} nor {INDEX}; copy the index too"
    if pickles:
        return (
            f"only {pickles[0]} is there, a pickle, which can run code when it is opened and is never read here; "
            "convert it to safetensors with transformers' save_pretrained"
        )
    return f"no weights: expected {SINGLE}, or {INDEX} and its shards"


def _sharded(index: Path) -> dict[str, _Entry]:
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(shard, str) for shard in listed.values()):
        raise CheckpointError(f"{index}: field 'weight_map' should map names of tensors to files; copy it anew")
    found: dict[str, _Entry] = {}
    for shard in sorted(set(listed.values())):
        file = inside(index.parent, shard, where=f"{index}: shard")
        if not file.is_file():
            raise CheckpointError(f"{index}: shard {shard} is not there; copy it beside the index")
        for name, entry in _entries(file).items():
            if name in found:
                raise CheckpointError(f"{file}: tensor {name} is also in {found[name].file.name}; copy the shards anew")
            if listed.get(name) != shard:
                said = f"says {listed[name]}" if name in listed else "does not list it"
                raise CheckpointError(f"{file}: tensor {name} is here, but {index.name} {said}; copy the shards anew")
            found[name] = entry
    for name, shard in listed.items():
        if name not in found:
            raise CheckpointError(f"{index}: tensor {name} is listed as in {shard}, but is not there; copy both anew")
    return found


def safetensors_file(file: Path) -> TensorSource:
    """Open one safetensors file, and check its header and size."""
    return _Safetensors(str(file), _entries(file))


def _entries(file: Path) -> dict[str, _Entry]:
    """Read the header of one file, and check every number in it."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(_LONGEST_HEADER, size - 8):
            raise CheckpointError(f"{file}: not a safetensors file, or truncated: its header is not whole")
        text = opened.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: the safetensors header is malformed: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: the safetensors header is malformed: expected names of tensors")
    header.pop("__metadata__", None)
    tensors = {name: _entry(file, name, 8 + length, fields) for name, fields in header.items()}
    end = 8 + length
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].info.nbytes)):
        if entry.offset != end:
            raise CheckpointError(f"{file}: tensor {name} starts at byte {entry.offset} instead of {end}; copy it anew")
        end += entry.info.nbytes
        if end > size:
            raise CheckpointError(f"{file}: truncated: tensor {name} ends at byte {end}, the file at {size}")
    if end != size:
        raise CheckpointError(f"{file}: {size - end} bytes after the last tensor; copy it anew")
    return tensors


def _entry(file: Path, name: str, start: int, fields: Any) -> _Entry:
    where = f"{file}: the safetensors header is malformed: tensor {name}"
    try:
        dtype, shape, (first, last) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{where} should have dtype, shape and two data_offsets, found {fields}") from error
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(f"{where}: dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    info = TensorInfo(shape, _DTYPES[dtype])
    whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
    # An axis of length 0 hides what the others say from the sum of bytes, not from numpy.
    fits = whole and len(shape) <= _MOST_AXES and math.prod(filter(None, shape)) < _MOST_NUMBERS
    if not fits or last - first != info.nbytes:
        raise CheckpointError(f"{where}: data_offsets {first, last} do not hold shape {list(shape)} of {dtype}")
    return _Entry(info, file, start + first)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{file}: no such file; a checkpoint is a folder with {CONFIG} and weights") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def write_safetensors(path: Path, names: Mapping[str, TensorInfo], read: Callable[[str], np.ndarray]) -> None:
    """Write one file, asking for its tensors one after the other.

    Args:
        path: a file that is not there yet.
        names: shape and type of every tensor, in the order in which they are written.
        read: the function from a name to the values of that tensor.

    Raises:
        ValueError: ``read`` gave another shape or type than was said.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files that do not say so
    end = 0
    for name, info in names.items():
        offsets = [end, end + info.nbytes]
        header[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": offsets}
        end += info.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, info in names.items():
            values = read(name)
            if TensorInfo(values.shape, values.dtype.name) != info:
                raise ValueError(f"{name}: {info} was announced, {values.dtype} {values.shape} came")
            for rows in slabs(values.shape, values.itemsize):
                file.write(np.ascontiguousarray(values[rows]).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def slabs(shape: Sequence[int], itemsize: int) -> Iterator[slice]:
    """Cut an array into runs of rows that are moved at once, so that nothing large is held twice.

    A run has at most one MiB, or is a single row.

    Example:
        >>> list(slabs((5, 2**16), 4))
        [slice(0, 4, None), slice(4, 5, None)]
    """
    row = itemsize * math.prod(shape[1:])
    step = max(1, _SLAB // max(1, row))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Hash weights without reading them all, so that a run can note what it was built on.

    Args:
        path: a folder with ``config.json`` and safetensors, or a single file of weights (GGUF).

    Returns:
        SHA-256, 64 hexadecimal digits, of the names and sizes of the files of weights, of the first and last MiB of
        each, and of ``config.json``.

    Raises:
        CheckpointError: there are no weights.
    """
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{path}: {_what_instead(path)}")
        digest.update(json.dumps(read_object(path / CONFIG), sort_keys=True).encode())
    elif path.is_file():
        files = [path]
    else:
        raise CheckpointError(f"{path}: no such file or folder")
    for part in _ends(files):
        digest.update(part)
    return digest.hexdigest()


def _ends(files: Sequence[Path]) -> list[bytes]:
    parts = []
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            parts += [f"{file.name}\0{size}\0".encode(), opened.read(_MIB)]
            opened.seek(max(0, size - _MIB))
            parts.append(opened.read(_MIB))
    return parts
