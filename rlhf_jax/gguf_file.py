"""Opening a GGUF file: every length and count in its header is held against the file before anything is made of it.

A GGUF file holds a model and its tokenizer, so models and data open it with this. By itself the reader of the ``gguf``
package believes what the header says: it reads past the end of a short file, and counts to any number.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.files import CheckpointError

# Types that stay what they are; every other one becomes float32.
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED = {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}
# Each entry of an array becomes an object of some hundred bytes. The largest vocabularies have a quarter of a million
# tokens, with as many scores and types and twice as many merges.
MOST_ENTRIES = 1 << 22
DEEPEST = 2  # arrays in arrays, which no known key has
MOST_AXES = 4  # the format's own limit for a tensor


def open_gguf(path: str | os.PathLike[str]) -> Any:
    """Open a GGUF file and check its header; tensors are mapped, not read.

    Args:
        path: the file.

    Returns:
        A ``gguf.GGUFReader``, whose key-value pairs can all be unpacked and whose tensors all lie in the file.

    Raises:
        CheckpointError: when the file is cut short or is not GGUF, holds a type of tensor that is not supported, or
            counts that no model has. It names the file and the tensor.
        FileNotFoundError: when there is no file.
    """
    import gguf

    where = os.fspath(path)

    class Reader(gguf.GGUFReader):
        entries = depth = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            # As Python's integers: numpy's wrap around, and a length near 2^64 would seem to fit.
            offset, count = int(offset), int(count)
            if offset + np.dtype(dtype).itemsize * count > len(self.data):
                raise CheckpointError(f"{where}: the file ends inside its header; download it again")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if int(raw_type) != gguf.GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            n = int(self._get(orig_offs + 4, np.uint64)[0])
            self._get(orig_offs + 12, np.uint8, n)  # every entry has a byte at least
            self.depth += 1
            self.entries += n
            if self.depth > DEEPEST or self.entries > MOST_ENTRIES:
                raise CheckpointError(
                    f"{where}: its lists have {self.entries:,} entries in {self.depth} levels, more than any model's "
                    f"({MOST_ENTRIES:,} in {DEEPEST}); it is damaged, so download it again"
                )
            found = super()._get_field_parts(orig_offs, raw_type)
            self.depth -= 1
            return found

        def _get_tensor_info_field(self, orig_offs: int) -> Any:
            length = int(self._get(orig_offs, np.uint64)[0])
            axes = int(self._get(orig_offs + 8 + length, np.uint32)[0])
            if axes > MOST_AXES:
                raise CheckpointError(f"{where}: a tensor of {axes} axes; the format has {MOST_AXES} at most")
            return super()._get_tensor_info_field(orig_offs)

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            for field in fields:
                _check_tensor(where, field, int(start_offs), len(self.data))
            super()._build_tensors(start_offs, fields)

    if not Path(where).is_file():
        raise FileNotFoundError(2, "no such file", where)
    try:
        # Sums of numpy's integers that run over are damage too, not a warning.
        with np.errstate(over="raise"):
            reader = Reader(where)
    except CheckpointError:
        raise
    # The reader raises all of these for bytes that are not a GGUF header.
    except (ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"{where}: not a GGUF file that can be read ({error}); download it again") from error
    if reader.byte_order != "I":
        raise CheckpointError(f"{where}: its byte order is not this machine's; convert it with gguf-convert-endian")
    return reader


def key_values(reader: Any, where: str, longest: int | None = None) -> dict[str, Any]:
    """Unpack the key-value pairs of an open file.

    Args:
        reader: what ``open_gguf`` gave.
        where: the file, for errors.
        longest: lists with as many entries are left out; None takes all.

    Raises:
        CheckpointError: when a text is not UTF-8.
    """
    try:
        fields = reader.fields.items()
        return {key: field.contents() for key, field in fields if longest is None or len(field.data) < longest}
    except (ValueError, LookupError) as error:
        raise CheckpointError(f"{where}: not a GGUF file that can be read ({error}); download it again") from error


def _check_tensor(where: str, field: Any, start: int, size: int) -> None:
    """Check that a tensor has a known type and lies within the file."""
    import gguf

    name = str(bytes(field.parts[1]), "utf-8")
    kind = gguf.GGMLQuantizationType(int(field.parts[4][0])).name
    if kind not in PLAIN and kind not in QUANTISED:
        known = ", ".join([*PLAIN, *sorted(QUANTISED)])
        raise CheckpointError(f"{where}: {name}: type {kind} is not supported; supported are {known}")
    block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    columns, *others = (int(n) for n in field.parts[3]) if len(field.parts[3]) else (1,)
    if columns % block:
        raise CheckpointError(f"{where}: {name}: rows of {columns} numbers, not blocks of {block}")
    n_bytes *= columns // block
    for n in others:
        n_bytes *= n
    end = start + int(field.parts[5][0]) + n_bytes
    if end > size:
        raise CheckpointError(f"{where}: {name} ends at byte {end:,} of a file of {size:,}; download it again")
