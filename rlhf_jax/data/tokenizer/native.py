"""The ``tokenizers`` package, with its errors made ours: anybody's vocabulary may fail in any of its calls."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_jax.data.errors import DataError
from rlhf_jax.files import machine_fault

if TYPE_CHECKING:
    import tokenizers


@contextlib.contextmanager
def native(what: str) -> Iterator[None]:
    """Make a DataError of whatever the package raises inside the block; our own errors go through.

    Args:
        what: what the error begins with.

    Raises:
        DataError: for a plain Exception, which is what the package raises for most faults, and for a panic of Rust.

    Example:
        >>> with native("x/tokenizer.json"):
        ...     raise Exception("no such token")
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: x/tokenizer.json: not a tokenizer that can be used (no such token); ...
    """
    try:
        yield
    except DataError:
        raise
    except BaseException as error:
        # A panic (a pattern that takes too long is one) is a BaseException of a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if fault := machine_fault(error):
            raise DataError(f"{what}: could not be read here ({fault})") from error
        raise DataError(
            f"{what}: not a tokenizer that can be used ({error}); train it again, or fetch the file again"
        ) from error


def encoded(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    """Encode text as it is, without special tokens at its ends.

    Raises:
        DataError: if the tokenizer fails.
    """
    with native("tokenizer"):
        return backend.encode(text, add_special_tokens=False).ids


def decoded(backend: tokenizers.Tokenizer, ids: Sequence[int]) -> str:
    """Decode ids, and drop special tokens.

    Raises:
        DataError: if the tokenizer fails.
    """
    with native("tokenizer"):
        return backend.decode(list(ids), skip_special_tokens=True)
