"""Names that were read from a file, joined to a folder: the one way in which this package follows them.

An index of shards, a manifest or a run's record may come from anybody. A name in it may say which file of its folder is
meant, never a file somewhere else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rlhf_jax.files import CheckpointError

_LONGEST = 255  # bytes of one part, what common file systems allow
_DRIVE = re.compile(r"[A-Za-z]:")


class PathError(CheckpointError):
    """A name in a file that leads out of the folder it belongs to, or is no name at all; the text says which.

    Example:
        >>> raise PathError("index.json: '../a' leads out of its folder")
        Traceback (most recent call last):
        ...
        rlhf_jax.paths.PathError: index.json: '../a' leads out of its folder
    """


def inside(folder: str | os.PathLike[str], name: Any, *, where: str) -> Path:
    r"""Join a name that was read from a file to a folder, and refuse one that leads out of it.

    Args:
        folder: where the file must lie.
        name: what was read: text with ``/`` between folders and their files.
        where: the file and field that the name was read from, for the error.

    Returns:
        ``folder / name``. Nothing need be there. Where there is a link, it leads to a place in the folder, or, in a
        snapshot of the hub's cache, to the files that the cache keeps beside its snapshots.

    Raises:
        PathError: the name is no text, is empty, absolute, on a drive, has a part ``.`` or ``..``, or is a link that
            leads elsewhere.

    Example:
        >>> inside("runs/mine", "params/sft", where="x.json").as_posix()
        'runs/mine/params/sft'
        >>> inside("runs/mine", "../other", where="x.json")
        Traceback (most recent call last):
        ...
        rlhf_jax.paths.PathError: x.json: '../other' has a part '..'; it should be the name of a file in runs/mine
    """
    folder = Path(folder)
    fault = _fault(name)
    if not fault:
        path = folder / name
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # a link that leads to itself
            fault = f"cannot be followed ({type(error).__name__})"
        else:
            if real.is_relative_to(_root(folder.resolve())):
                return path
            fault = "is a link that leads out of it"
    raise PathError(f"{where}: {name!r:.80} {fault}; it should be the name of a file in {folder}")


def _fault(name: Any) -> str:
    """Say what is wrong with a name by itself; empty where nothing is."""
    if not isinstance(name, str) or not name:
        return "is no name"
    # Both separators and drives count everywhere: a folder is made on one machine and read on another.
    parts = re.split(r"[/\\]", name)
    if not parts[0] or _DRIVE.match(name):
        return "is an absolute path"
    for part in parts:
        if part in ("", ".", ".."):
            return f"has a part {part!r}"
    if any(ord(c) < 32 or "\ud800" <= c <= "\udfff" for c in name):
        return "has characters that are in no name"
    if any(len(part.encode()) > _LONGEST for part in parts):
        return "is too long"
    return ""


def _root(folder: Path) -> Path:
    """Find the folder that links may not leave: in the hub's cache, whose snapshots are links, the whole repository."""
    if folder.parent.name == "snapshots" and (folder.parents[1] / "blobs").is_dir():
        return folder.parents[1]
    return folder
