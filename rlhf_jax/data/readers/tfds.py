"""Any TFDS data set as the same validated rows that a JSONL file gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import grain
import numpy as np
import tensorflow_datasets

import rlhf_jax.data.human_sentiment  # noqa: F401  (TFDS then knows the name)
from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.data.preparing import prepared
from rlhf_jax.data.readers.huggingface import HUB
from rlhf_jax.data.readers.jsonl import collect

Row = TypeVar("Row")


def read_tfds(
    name: str,
    split: str,
    parse: Callable[[Mapping[str, Any], str], Row],
    on_bad_row: OnBadRow = "error",
    *,
    fields: Mapping[str, str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Read a split of a TFDS data set; TFDS prepares it first where it is not prepared yet.

    Args:
        name: any TFDS name, such as ``"human_sentiment"`` or ``"my_dataset/config:1.0.0"``.
        split: a TFDS split, such as ``"train"`` or ``"train[:10%]"``.
        parse: one of the parse functions of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
        on_bad_row: "error" stops at the first bad row; "skip" goes on and lists it.
        fields: what the data set calls our fields, such as ``{"prompt": "document", "response": "summary"}``; a field
            that is not named keeps its name.
        data_dir: the TFDS data directory; TFDS's own default if None.

    Returns:
        The good rows in the data set's order, and for every bad one what is wrong with it. Text comes as ``str``,
        arrays as lists.

    Raises:
        DataError: at the first bad row unless it is to be skipped, for a name that TFDS does not know or a split that
            is not there, and for a data set whose files are not array_record, which cannot be read without TensorFlow.
    """
    builder = _builder(name, data_dir)
    try:
        source = builder.as_data_source(split)
    except ValueError as error:
        raise DataError(
            f"{name}: there is no split {split!r}; it has {', '.join(builder.info.splits)} and parts of them, such as "
            "train[:10%]"
        ) from error
    return collect(_rows(source, f"{name}[{split}]", fields or {}), parse, on_bad_row)


def splits(name: str, data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """List the names of a TFDS data set's splits; TFDS prepares it first where it is not prepared yet.

    Args:
        name: any TFDS name.
        data_dir: the TFDS data directory; TFDS's own default if None.

    Returns:
        The names, in order.

    Raises:
        DataError: as for ``read_tfds``.
    """
    return list(_builder(name, data_dir).info.splits)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> tensorflow_datasets.core.DatasetBuilder:
    """Make the builder of a data set that is prepared, and whose files can be read."""

    def make() -> tensorflow_datasets.core.DatasetBuilder:
        try:
            return tensorflow_datasets.builder(name, data_dir=data_dir)
        # ValueError: no name that TFDS could have, or an unknown config; AssertionError: an unknown version.
        except (tensorflow_datasets.core.DatasetNotFoundError, ValueError, AssertionError) as error:
            said = str(error).strip().partition("\n")[0]
            raise DataError(
                f"{name}: no such file or folder, and TFDS knows no data set of this name ({said}); check the "
                f"spelling, write {HUB}{name} for a name on the Hugging Face hub, or import the module of a TFDS data "
                "set of your own"
            ) from error

    builder = prepared(make)
    found = builder.info.file_format
    if found != tensorflow_datasets.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{builder.data_path}: expected array_record files, found {found and found.value}; prepare it again with "
            "tfds.builder(name, file_format='array_record') in another data_dir"
        )
    return builder


def _rows(source: Any, name: str, fields: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any] | DataError]]:
    rows = grain.MapDataset.source(source)
    taken = set(fields.values())
    for i in range(len(rows)):
        where = f"{name} row {i}"
        try:
            theirs = _plain(rows[i])
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}"
            yield where, DataError(f"{where}: expected UTF-8, found {found}; pass --on-bad-row skip")
            continue
        ours = {key: value for key, value in theirs.items() if key not in taken}
        ours |= {mine: theirs[key] for mine, key in fields.items() if key in theirs}
        yield where, ours


def _plain(value: Any) -> Any:
    """Make of a value what JSON would: text of bytes, lists of arrays, numbers of numpy scalars, at any depth."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
