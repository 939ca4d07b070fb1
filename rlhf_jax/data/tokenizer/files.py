"""A tokenizer as files: one of our own with everything in it, or the folder that Hugging Face's libraries read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.tokenizer.native import native
from rlhf_jax.data.tokenizer.special_tokens import (
    OURS,
    SPECIALS,
    SpecialTokens,
    checked,
    read_beside,
    token_id,
    write_beside,
)
from rlhf_jax.files import atomic_text

if TYPE_CHECKING:
    import tokenizers

_LARGEST = 1 << 22  # above all ids; the largest vocabularies have a quarter of a million
_KEY = "rlhf_jax"  # in our file: what a pretrained tokenizer keeps in other files than its vocabulary


def read_tokenizer(path: str | os.PathLike[str]) -> tuple[Path, tokenizers.Tokenizer, SpecialTokens]:
    """Read what ``as_json`` or ``write_folder`` wrote, or the tokenizer of a Hugging Face model.

    Args:
        path: a folder with ``tokenizer.json``, or this file.

    Returns:
        The file that was read, the vocabulary, and what the tokenizer is besides.

    Raises:
        DataError: if a file is not what it should be.
        FileNotFoundError: if there is no file.
    """
    import tokenizers

    path = Path(path)
    if path.is_dir() and not (path / "tokenizer.json").exists():
        raise DataError(
            f"{path}: it has no tokenizer.json; write one with transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    path = path / "tokenizer.json" if path.is_dir() else path
    with native(str(path)):
        fields = json.loads(path.read_text(encoding="utf-8"))
        _check_numbers(fields, path)
        saved = checked(SpecialTokens(**fields.pop(_KEY)), path) if _KEY in fields else None
        backend = tokenizers.Tokenizer.from_str(json.dumps(_without_state(fields)))
        ours = all(backend.id_to_token(i) == token for i, token in enumerate(SPECIALS))
    if saved is not None:
        return path, backend, saved
    if ours and not path.with_name("tokenizer_config.json").exists():
        return path, backend, OURS
    with native(str(path)):
        return path, backend, checked(read_beside(path, backend), path)


def _without_state(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what somebody's last call left in the file: texts cut, filled up, or encoded anew at every call.

    Here a text has the tokens that it has, and the same ones every time.
    """
    model = fields.get("model")
    kept = {**model, "dropout": None} if isinstance(model, Mapping) and "dropout" in model else model
    return {**fields, "truncation": None, "padding": None, "model": kept}


def _check_numbers(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse ids that no vocabulary has: the package makes room for all up to the largest, or ends the process."""
    waiting: list[Any] = [value for name, value in fields.items() if name not in ("truncation", "padding")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and not 0 <= value < _LARGEST:
            raise DataError(
                f"{path}: it has the number {str(value)[:20]}; ids are below {_LARGEST:,}, so fetch it again"
            )


def as_json(backend: tokenizers.Tokenizer, special: SpecialTokens) -> str:
    """Write a tokenizer as one text.

    Args:
        backend: the vocabulary.
        special: what the tokenizer is besides.

    Returns:
        A JSON document that the ``tokenizers`` package reads. For a tokenizer that was not trained here it also holds,
        under "rlhf_jax", the special tokens' names, the chat template and the format.
    """
    text = backend.to_str(pretty=True)
    if special == OURS:
        return text
    later = ("ends", "stops")  # without them a file is as older versions wrote it
    fields = {name: value for name, value in special._asdict().items() if value or name not in later}
    return json.dumps({**json.loads(text), _KEY: fields}, indent=2, ensure_ascii=False)


def write_folder(folder: str | os.PathLike[str], backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
    """Write the files that transformers' ``AutoTokenizer`` loads.

    Args:
        folder: where to write; made if it is not there.
        backend: the vocabulary.
        special: what the tokenizer is besides.
    """
    import tokenizers

    Path(folder).mkdir(parents=True, exist_ok=True)
    text = backend.to_str(pretty=True)
    if special.adds_bos and backend.post_processor is None:
        bos = special.tokens["bos_token"]
        adding = tokenizers.Tokenizer.from_str(text)
        adding.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, token_id(backend, bos))]
        )
        text = adding.to_str(pretty=True)
    with atomic_text(Path(folder) / "tokenizer.json") as file:
        file.write(text)
    write_beside(folder, special)
