"""JSONL and JSON files of users' rows: every bad row is named, and a file is written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.files import atomic_text

Row = TypeVar("Row")
LINES = (".jsonl", ".ndjson")
_LONGEST = 1 << 26  # bytes of a line: a small archive may unpack to one that no memory holds
_MARK = b"\xef\xbb\xbf"  # which some editors put before any text


def is_lines(name: str) -> bool:
    """Whether a file's name says that it holds one JSON object a line, and is not packed.

    Example:
        >>> is_lines("pairs.JSONL"), is_lines("pairs.ndjson"), is_lines("pairs.jsonl.gz"), is_lines("pairs.json")
        (True, True, False, False)
    """
    return name.lower().endswith(LINES)


def read_jsonl(
    path: str | os.PathLike[str], parse: Callable[[Mapping[str, Any], str], Row], on_bad_row: OnBadRow = "error"
) -> tuple[list[Row], list[str]]:
    """Read a file with one JSON object a line (blank lines are passed over), or one that is a list of them.

    Args:
        path: the file, UTF-8, with or without a byte-order mark; compressed if its name ends with .gz.
        parse: one of the functions of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.

    Returns:
        The good rows in file order, and for every bad one what is wrong with it (file, line, field, what was found).

    Raises:
        DataError: at the first bad row, unless it is to be skipped; and for a broken list or archive, since none of its
            rows can be trusted.
        FileNotFoundError: if there is no file.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.data.layouts import prompt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "prompts.jsonl"
        ...     write_jsonl(file, [{"prompt": "Say hello."}, {"prompt": 3}])
        ...     rows, bad = read_jsonl(file, prompt, on_bad_row="skip")
        >>> len(rows), len(bad)
        (1, 1)
    """
    return collect(_objects(Path(path)), parse, on_bad_row)


def collect(
    rows: Iterable[tuple[str, Mapping[str, Any] | DataError]],
    parse: Callable[[Mapping[str, Any], str], Row],
    on_bad_row: OnBadRow,
) -> tuple[list[Row], list[str]]:
    """Parse rows from any source, and stop at a bad row or list all of them.

    Args:
        rows: pairs of where a row stands and the row, or the error that kept it from being read.
        parse: a function of a row and where it stands.
        on_bad_row: "error" or "skip".

    Returns:
        The good rows, and a text for every bad one.

    Raises:
        DataError: at the first bad row, unless it is to be skipped.
    """
    if on_bad_row not in ("error", "skip"):
        raise ValueError(f"on_bad_row={on_bad_row!r}: expected 'error' or 'skip'")
    good: list[Row] = []
    bad: list[str] = []
    for where, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            good.append(parse(row, where))
        except DataError as error:
            if on_bad_row == "error":
                raise
            bad.append(str(error))
    return good, bad


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | DataError]]:
    with _opened(path) as file:
        try:
            if file.read(1024).removeprefix(_MARK).lstrip()[:1] == b"[":  # no row begins so
                file.seek(0)
                yield from _listed(file.read().removeprefix(_MARK), path)
                return
            file.seek(0)
            for number, raw in enumerate(iter(lambda: file.readline(_LONGEST + 1), b""), start=1):
                where = f"{path}:{number}"
                if len(raw) > _LONGEST:
                    raise DataError(f"{where}: more than {_LONGEST:,} bytes without a line's end; write one row a line")
                line = raw.removeprefix(_MARK) if number == 1 else raw
                if line.strip():
                    yield where, _object(line, where)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: cannot be read: {error}; the file may be incomplete, so copy it again") from error


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _listed(text: bytes, path: Path) -> Iterator[tuple[str, Mapping[str, Any] | DataError]]:
    """Read the rows of a file that is one list."""
    try:
        rows = json.loads(text.decode("utf-8"), object_pairs_hook=_fields)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_not_utf8(text, error)}") from error
    except _Twice as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read: expected a list of JSON objects ({error}); the file may be incomplete, so copy "
            "it again"
        ) from error
    for number, row in enumerate(rows):
        where = f"{path} row {number}"
        yield where, row if isinstance(row, dict) else _no_object(where, repr(row), type(row).__name__)


def _object(line: bytes, where: str) -> Mapping[str, Any] | DataError:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_fields)
    except UnicodeDecodeError as error:
        return DataError(f"{where}: {_not_utf8(line, error)}, or pass --on-bad-row skip")
    except _Twice as error:
        return DataError(f"{where}: {error}, or pass --on-bad-row skip")
    except (ValueError, RecursionError) as error:
        return _no_object(where, line.decode("utf-8").strip(), str(error))
    return row if isinstance(row, dict) else _no_object(where, line.decode("utf-8").strip(), type(row).__name__)


class _Twice(ValueError):
    """An object has a field twice."""


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its fields, where Python would keep the last of two with one name without a word."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise _Twice(f"field '{name}': expected once, found {names.count(name)} of that name; fix the row")
    return row


def _not_utf8(text: bytes, error: UnicodeDecodeError) -> str:
    return f"expected UTF-8, found byte 0x{text[error.start]:02x} at {error.start}; save the file as UTF-8"


def _no_object(where: str, text: str, reason: str) -> DataError:
    found = text if len(text) <= 60 else text[:57] + "..."
    return DataError(
        f"{where}: expected a JSON object, found {found} ({reason}); fix the row or pass --on-bad-row skip"
    )


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; the file appears only when every row is in it.

    Args:
        path: the file; its folder must exist. A file that is there is replaced in one step.
        rows: the objects; numpy scalars and arrays are written as numbers and lists.

    Raises:
        ValueError: for a number that JSON cannot hold (NaN, infinity); nothing is written.
        TypeError: for a value that JSON cannot hold; nothing is written.
    """
    with atomic_text(path) as file:
        for row in rows:
            file.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")
