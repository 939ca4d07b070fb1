"""Reading a ``DataConfig``'s rows from a file, a folder, the hub or TFDS, and holding some of them out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.data.order import evenly
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.readers.huggingface import is_huggingface
from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.data.rows import Dialogue, Prompt

Parse = Callable[[Mapping[str, Any], str], Any]
# How UltraFeedback and data sets like it end the names of splits for one purpose.
IMITATE, COMPARE, ANSWER = ("_sft",), ("_prefs",), ("_prefs", "_gen", "_sft")
_LISTED = 20  # of a large data set thousands of rows may be too long


class Split(NamedTuple):
    """Training rows and held-out rows."""

    train: list[Any]
    heldout: list[Any]


def read(config: DataConfig, parse: Parse, endings: Sequence[str]) -> Split:
    """Rows to train on and rows that are held out.

    Args:
        config: where they are.
        parse: a function of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
        endings: of the splits that a data set has for this purpose, where it has no split ``train``.

    Returns:
        Both, neither of them empty; bad rows that are to be skipped are listed on standard error.

    Raises:
        DataError: on a bad row, a source or split that cannot be read, and when either part is empty.
    """
    source, name = config.source, config.heldout
    there = _splits(source)
    split = config.split or _training_split(source, there, endings)
    train, bad = _rows(source, split, parse, config.on_bad_row)
    more: list[str] = []
    if name and (_is_jsonl(name) or is_huggingface(name)):
        heldout, more = _rows(name, _training_split(name, _splits(name), endings), parse, config.on_bad_row)
    elif name and _is_jsonl(source):
        raise DataError(f"data.heldout {name}: expected a .jsonl or .parquet file or a folder beside {source}")
    elif name := name or _held_out_split(there, split, endings):
        heldout, more = _rows(source, name, parse, config.on_bad_row)
    else:
        train, heldout = hold_out(source, train)
    list_bad([*bad, *more])
    if not train or not heldout:
        raise DataError(f"{source}: {len(train)} rows to train on and {len(heldout)} held out; both are needed")
    heldout = evenly(heldout, config.heldout_limit or len(heldout))
    return Split(train[: config.limit] if config.limit else train, heldout)


def hold_out(name: str, rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """A tenth of the prompts, by hash, with all their rows; of the rows, where there is only one prompt."""
    if len(rows) < 2:
        raise DataError(f"{name}: expected at least 2 rows, one of them to be held out, found {len(rows)}")
    asked = [_opening(row) for row in rows]
    several = len(set(asked)) > 1
    names = asked if several else [repr(row[:2]) for row in rows]
    ranked = sorted(set(names), key=lambda text: hashlib.sha256(text.encode()).digest())
    held = set(ranked[: max(1, len(ranked) // 10)])
    return (
        [row for row, key in zip(rows, names, strict=True) if key not in held],
        [row for row, key in zip(rows, names, strict=True) if key in held],
    )


def list_bad(bad: Sequence[str]) -> None:
    """Count the rows that were left out, and list the first of them, on standard error."""
    if bad:
        rest = [f"... and {len(bad) - _LISTED} more"] if len(bad) > _LISTED else []
        print(f"left out {len(bad)} bad rows:", *bad[:_LISTED], *rest, sep="\n  ", file=sys.stderr)


def _is_jsonl(name: str) -> bool:
    return Path(name).suffix == ".jsonl"


def _splits(source: str) -> list[str]:
    if _is_jsonl(source):
        return ["train"]
    if is_huggingface(source):
        return huggingface.splits(source)
    from rlhf_jax.data.readers import tfds  # here, because it needs tensorflow-datasets

    return tfds.splits(source)


def _rows(source: str, split: str, parse: Parse, on_bad_row: OnBadRow) -> tuple[list[Any], list[str]]:
    if _is_jsonl(source):
        return read_jsonl(source, parse, on_bad_row)
    if is_huggingface(source):
        return huggingface.read_huggingface(source, split, parse, on_bad_row)
    from rlhf_jax.data.readers import tfds

    return tfds.read_tfds(source, split, parse, on_bad_row)


def _opening(row: Any) -> str:
    """What rows that belong together have in common: their prompt; of a chat, what comes before its first answer."""
    prompt: Prompt = row.messages if isinstance(row, Dialogue) else row.prompt
    if isinstance(prompt, str):
        return prompt
    first = next((i for i, turn in enumerate(prompt) if turn.role == "assistant"), len(prompt))
    return repr([tuple(turn) for turn in prompt[:first]])


def _training_split(source: str, there: Sequence[str], endings: Sequence[str]) -> str:
    for name in ("train", *(f"train{ending}" for ending in endings)):
        if name in there:
            return name
    if len(there) == 1:
        return there[0]
    raise DataError(f"{source}: which split to train on? It has {', '.join(there)}; name one with --data.split")


def _held_out_split(there: Sequence[str], train: str, endings: Sequence[str]) -> str:
    """Empty where the data set has none: then some of the training rows are held out."""
    names = [f"{name}{ending}" for name in ("validation", "test") for ending in ("", *endings)]
    # Of TFDS one may ask for parts of several splits: train[:90%]+validation.
    taken = {part.partition("[")[0] for part in train.split("+")}
    return next((name for name in names if name in there and name not in taken), "")
