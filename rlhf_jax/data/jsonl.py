"""JSONL files of users' rows: read with every bad row named, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from rlhf_jax.data.atomic import atomic_text
from rlhf_jax.data.errors import DataError

Row = TypeVar("Row")
OnBadRow = Literal["error", "skip"]


def read_jsonl(
    path: str | os.PathLike[str], parse: Callable[[Mapping[str, Any], str], Row], on_bad_row: OnBadRow = "error"
) -> tuple[list[Row], list[str]]:
    """Reads a file with one JSON object a line; blank lines are passed over.

    Args:
      path: the file, UTF-8, with or without a byte-order mark.
      parse: one of the functions of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
      on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.

    Returns:
      The good rows in file order, and for every bad one what is wrong with it (file, line, field, what was found).

    Raises:
      DataError: at the first bad row, unless it is to be skipped.
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
    """Parses rows from any source, and raises or lists the bad ones.

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
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield where, _object(line, where)


def _object(line: bytes, where: str) -> Mapping[str, Any] | DataError:
    advice = "fix the row or pass --on-bad-row skip"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x} at {error.start}"
        return DataError(f"{where}: expected UTF-8, found {found}; save the file as UTF-8, or pass --on-bad-row skip")
    except (ValueError, RecursionError) as error:
        return DataError(f"{where}: expected a JSON object, found {_short(line)} ({error}); {advice}")
    if not isinstance(row, dict):
        return DataError(f"{where}: expected a JSON object, found {_short(line)} ({type(row).__name__}); {advice}")
    return row


def _short(line: bytes) -> str:
    text = line.decode("utf-8").strip()
    return text if len(text) <= 60 else text[:57] + "..."


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line; the file appears only when every row is in it.

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
