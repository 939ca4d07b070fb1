"""The key-value pairs that a GGUF file's tokenizer is made of, each of its kind: anybody may have written them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.data.errors import DataError
from rlhf_jax.files import CheckpointError
from rlhf_jax.gguf_file import key_values, open_gguf

LONGEST = 1024  # characters of a token or a merge: every way to cut a token in two is looked at


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) and len(entry) <= LONGEST for entry in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, int | float) and math.isfinite(x) for x in value)


_TEXT = ("text", lambda value: isinstance(value, str))
_WHOLE = ("a whole number", _whole)
_SWITCH = ("true or false", lambda value: isinstance(value, bool))
_TEXTS = (f"a list of texts of at most {LONGEST} characters", _texts)
_NUMBERS = ("a list of finite numbers", _numbers)
KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "general.architecture": _TEXT,
    "tokenizer.chat_template": _TEXT,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _TEXTS,
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.scores": _NUMBERS,
    "tokenizer.ggml.token_type": _NUMBERS,
    **{f"tokenizer.ggml.{name}_token_id": _WHOLE for name in ("bos", "eos", "eot", "eom", "unknown", "padding")},
    **{f"tokenizer.ggml.{name}": _SWITCH for name in ("add_bos_token", "add_eos_token", "add_space_prefix")},
}


def read_pairs(where: str) -> dict[str, Any]:
    """Read the key-value pairs of a GGUF file.

    Args:
        where: the file.

    Raises:
        DataError: when the file cannot be read.
        FileNotFoundError: when there is no file.
    """
    try:
        return key_values(open_gguf(where), where)
    except CheckpointError as error:
        raise DataError(str(error)) from error


def check_kinds(pairs: Mapping[str, Any], where: str) -> None:
    """Raise a DataError where a value that a tokenizer is made of is of another kind than its key says.

    Args:
        pairs: keys and their values; None stands for a key that is not there.
        where: the file, for the error.

    Example:
        >>> check_kinds({"tokenizer.ggml.bos_token_id": "1"}, "m.gguf")
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: m.gguf: tokenizer.ggml.bos_token_id: expected a whole number, found '1'; ...
    """
    for key, (expected, fits) in KINDS.items():
        value = pairs.get(key)
        if value is not None and not fits(value):
            raise DataError(f"{where}: {key}: expected {expected}, found {value!r:.60}; download the file again")
