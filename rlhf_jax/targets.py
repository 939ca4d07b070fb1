"""Whether something can be written where a person wants it: asked before the work, which may take hours."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_LEAST = 2**20  # bytes of room without which nothing worth having can be written


class TargetError(ValueError):
    """A place that cannot be written to: the text names the option and the path, and says why."""


def check_file(path: str | os.PathLike[str], what: str) -> None:
    """Check that a file can be written; nothing is made, and the folders above it may be missing.

    Args:
        path: the file; one that is there would be replaced.
        what: the option or field that names it, for the message.

    Raises:
        TargetError: it is a folder or a device, or the folder it goes into cannot be written to.

    Example:
        >>> check_file("/", "--to")
        Traceback (most recent call last):
        ...
        rlhf_jax.targets.TargetError: --to /: is a folder; name a file
    """
    path = Path(path)
    if path.is_dir():
        raise TargetError(f"{what} {path}: is a folder; name a file")
    if path.exists() and not path.is_file():  # it would be replaced, /dev/null too
        raise TargetError(f"{what} {path}: is a device or a pipe, which a file cannot replace; name a file")
    _check_above(path.absolute().parent, f"{what} {path}")


def check_folder(path: str | os.PathLike[str], what: str) -> None:
    """Check that files can be written into a folder; nothing is made, and it may be missing.

    Args:
        path: the folder.
        what: as for ``check_file``.

    Raises:
        TargetError: it is a file, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise TargetError(f"{what} {path}: is a file; name a folder")
    _check_above(path.absolute(), f"{what} {path}")


def _check_above(folder: Path, said: str) -> None:
    """Check the nearest folder that is there."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise TargetError(f"{said}: {folder} is a file, and nothing can lie in it; name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TargetError(f"{said}: {folder} cannot be written to; name another place, or change its permissions")
    free = shutil.disk_usage(folder).free
    if free < _LEAST:
        raise TargetError(f"{said}: the disk of {folder} is full ({free:,} bytes are free); make room there")
