"""Preparing a TFDS data set once, whoever else may be doing so, and quietly where nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TypeVar

import tensorflow_datasets as tfds

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)


def prepared(make: Callable[[], Builder]) -> Builder:
    """Make a builder whose data set is prepared, as array_record files; what is prepared already is used as it is.

    TFDS writes into a folder beside the final one and renames it at the end, so an interrupted preparation leaves no
    data set.

    Args:
        make: the function that makes the builder; called again where another process prepared the data set meanwhile.

    Returns:
        The builder, ready to be read.
    """
    builder = make()
    if _is_prepared(builder):
        return builder
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it does; stdout belongs to the command's result
            builder.download_and_prepare(file_format="array_record")
    except OSError:
        # The rename fails where another process was first, and then that one's data set, which is complete, is used.
        builder = make()
        if not _is_prepared(builder):
            raise
    return builder


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # not builder.is_prepared(), which logs a warning where the answer is no
    return (builder.data_path / tfds.core.constants.DATASET_INFO_FILENAME).exists()
