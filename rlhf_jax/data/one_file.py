"""The rows of one file: as they stand, or parsed for a purpose, and what is said of those that are left out."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.exports import unfold_all
from rlhf_jax.data.layouts.table import unknown_fields
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.readers.huggingface import is_huggingface
from rlhf_jax.data.readers.jsonl import collect, is_lines, read_jsonl

Row = Mapping[str, Any]
Parse = Callable[[Row, str], Any]
_LISTED = 20  # in a large data set thousands of rows may be too long


def read_rows(
    path: str | os.PathLike[str], parse: Parse, on_bad_row: OnBadRow, *, known: Sequence[str] = ()
) -> list[Any]:
    """Read the rows of one file for a purpose, and say on standard error what was left out and left alone.

    Args:
        path: a file that ``read_jsonl`` or ``read_huggingface`` reads.
        parse: a function of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.
        known: fields that are left alone without a word, as those that another command of ours has written.

    Returns:
        The good rows.

    Raises:
        DataError: at a bad row, unless it is to be skipped.
    """
    seen: list[Row] = []

    def kept(row: Row, where: str) -> Any:
        seen.append({field: value for field, value in row.items() if field not in known})
        return parse(row, where)

    if is_lines(str(path)) or not (is_huggingface(str(path)) or huggingface.advice(str(path))):
        read, broken = read_jsonl(path, as_it_is, on_bad_row)
    else:
        read, broken = huggingface.read_huggingface(path, "train", as_it_is, on_bad_row)
    rows, bad = unfolded(read, broken, kept, on_bad_row, said_of=str(path))
    list_bad(bad)
    if unread := left_alone(seen):
        print(f"{path}: {unread}", file=sys.stderr)
    return rows


def as_it_is(row: Row, where: str) -> tuple[str, Row]:
    """Give where a row stands and the row, in place of what a function of ``rlhf_jax.data.layouts`` makes of it.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        Both.
    """
    return where, row


def unfolded(
    rows: Sequence[tuple[str, Row]], broken: Sequence[str], parse: Parse, on_bad_row: OnBadRow, said_of: str = ""
) -> tuple[list[Any], list[str]]:
    """Parse rows as ``as_it_is`` gave them, the records of exports after they were unfolded to one row a person.

    Args:
        rows: pairs of where a row stands and the row.
        broken: what is wrong with rows that could not be read at all.
        parse: a function of a row and where it stands.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.
        said_of: the file's name, where records that nobody has answered are to be counted on standard error.

    Returns:
        The good rows, and what is wrong with the others.

    Raises:
        DataError: at a bad row, unless it is to be skipped.
    """
    every = unfold_all(rows)
    if every.unanswered and said_of:
        print(f"{said_of}: {unanswered(every.unanswered)}", file=sys.stderr)
    good, bad = collect(every.rows, parse, on_bad_row)
    return good, [*broken, *bad]


def left_alone(rows: Sequence[Row]) -> str:
    """Name the fields that nobody knows, with how often they stand in the rows.

    Args:
        rows: as they came.

    Returns:
        A sentence; empty where there are none.

    Example:
        >>> left_alone([{"prompt": "Hi.", "source": "me"}, {"prompt": "Ho.", "source": "you", "id": 3}])
        "fields that mean nothing here are left alone: 'source' (2), 'id' (1)"
    """
    found: Counter[str] = Counter()
    for row in rows:
        found += unknown_fields(row)
    named = ", ".join(f"'{field}' ({count:,})" for field, count in found.most_common())
    return f"fields that mean nothing here are left alone: {named}" if named else ""


def list_bad(bad: Sequence[str]) -> None:
    """Count the rows that were left out, and list the first of them, on standard error."""
    if bad:
        rest = [f"... and {len(bad) - _LISTED} more"] if len(bad) > _LISTED else []
        print(f"left out {len(bad)} bad rows:", *bad[:_LISTED], *rest, sep="\n  ", file=sys.stderr)


def unanswered(count: int) -> str:
    """Say how many records of an export nobody has answered.

    Example:
        >>> unanswered(3)
        "3 records hold nobody's answer and give no row"
    """
    return f"{count:,} records hold nobody's answer and give no row"
