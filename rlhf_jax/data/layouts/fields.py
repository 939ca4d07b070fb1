"""One field of a row, checked, and the complaint about a bad one: everything that reads rows is built from these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.errors import DataError

Row = Mapping[str, Any]
_LARGEST = float(np.finfo(np.float32).max)


def bad_row(where: str, what: str, expected: str, found: str) -> DataError:
    """Make the complaint about a row, to be raised.

    Args:
        where: where the row stands, such as ``"pairs.jsonl:12"``.
        what: the field, or the fields.
        expected: what should be there.
        found: what is there.

    Returns:
        The error, which says what to do as well.

    Example:
        >>> print(bad_row("pairs.jsonl:12", "field 'label'", "true or false", shown(1)))
        pairs.jsonl:12: field 'label': expected true or false, found 1 (int); fix the row or pass --on-bad-row skip
    """
    return DataError(f"{where}: {what}: expected {expected}, found {found}; fix the row or pass --on-bad-row skip")


def shown(value: Any) -> str:
    """Show a value and its type in a complaint; a long value is cut.

    Example:
        >>> shown([1, 2])
        '[1, 2] (list)'
    """
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def names(fields: Iterable[Any]) -> str:
    """List the names of fields in a complaint.

    Example:
        >>> names({"response": 1, "prompt": 2})
        "'prompt', 'response'"
    """
    return ", ".join(f"'{field}'" for field in sorted(map(str, fields)))


def value_of(row: Row, field: str, where: str) -> Any:
    """Take a field that has to be there.

    Args:
        row: the fields.
        field: the name of one.
        where: where the row stands.

    Returns:
        Its value, whatever it is.

    Raises:
        DataError: if the field is not there.
    """
    if field not in row:
        raise bad_row(where, f"field '{field}'", "it to be there", f"only {names(row)}" if row else "no fields")
    return row[field]


def text_of(row: Row, field: str, where: str) -> str:
    """Take a field that has to be text.

    Args:
        row: the fields.
        field: the name of one.
        where: where the row stands.

    Returns:
        The text as it is.

    Raises:
        DataError: if it is not there, or not a text with more than white space in it.
    """
    return checked_text(value_of(row, field, where), field, where)


def checked_text(value: Any, field: str, where: str) -> str:
    """Check a value that has to be text.

    Args:
        value: anything.
        field: what to call it in an error.
        where: where the row stands.

    Returns:
        The text as it is.

    Raises:
        DataError: if it is not a text with more than white space in it.
    """
    if not isinstance(value, str) or not value.strip():
        raise bad_row(where, f"field '{field}'", "non-empty text", shown(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"half a character at {error.start} (an unpaired \\u escape)"
        raise bad_row(where, f"field '{field}'", "text", found) from error
    return value


def checked_numbers(value: Any, field: str, where: str) -> np.ndarray:
    """Check a value that has to be a list of numbers.

    Args:
        value: anything.
        field: what to call it in an error.
        where: where the row stands.

    Returns:
        float32 [n], n at least 1.

    Raises:
        DataError: if it is not a list, is empty, or has anything in it that is not a finite number.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(is_number, value)):
        raise bad_row(where, f"field '{field}'", "a non-empty list of finite numbers", shown(value))
    return np.asarray(value, np.float32)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and no larger than float32 holds.

    Example:
        >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number(10**400)
        (True, False, False, False)
    """
    # Compared as it is: Python compares a whole number of any size with a float, and cannot make a float of it.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
