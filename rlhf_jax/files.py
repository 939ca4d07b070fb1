"""Files that appear whole or not at all: the one way in which this package writes them.

Everything goes into a file of another name beside the final one, is forced to the disk, and takes its name in one step.
Whoever reads meanwhile, or after a crash, finds the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, ours or anybody's: the text names the file, what is wrong and what to do.

    Example:
        >>> raise CheckpointError("base/config.json: model_type 'bert' is not supported")
        Traceback (most recent call last):
        ...
        rlhf_jax.files.CheckpointError: base/config.json: model_type 'bert' is not supported
    """


class MachineFault(CheckpointError):
    """A file that could not be read because of this machine: nothing is known to be wrong with what it holds.

    Example:
        >>> raise MachineFault("runs/mine/params/sft could not be read here (too many open files)")
        Traceback (most recent call last):
        ...
        rlhf_jax.files.MachineFault: runs/mine/params/sft could not be read here (too many open files)
    """


# What goes wrong with a machine while a file is whole, and what to do.
_MACHINE = {
    errno.EMFILE: "raise the limit with ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "mount it to be written to, or name another folder",
    errno.EACCES: "make it readable for this user",
    errno.EPERM: "make it readable for this user",
    errno.ENOMEM: "run on a machine with more memory, or close other programs",
    errno.ESTALE: "mount the network disk again",
    errno.ETIMEDOUT: "see whether the disk or the network is there, and run it again",
    errno.EHOSTUNREACH: "see whether the disk or the network is there, and run it again",
    errno.ECONNREFUSED: "see whether the disk or the network is there, and run it again",
    errno.ENOTCONN: "mount the disk again",
    errno.ENODEV: "mount the disk again",
    errno.EAGAIN: "close other programs, and run it again",
}
# The same in the words of libraries that tell of no error number.
_SAID = re.compile(
    "too many open files|no space left|quota exceeded|read-only file system|permission denied|cannot allocate memory|"
    "stale file handle|resource_exhausted|out of memory|unable to initialize backend|unknown backend|no visible",
    re.IGNORECASE,
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and all that led to it, the nearest first, what it was raised from before its context.

    Args:
        error: what was raised.

    Example:
        >>> try:
        ...     try:
        ...         {}["a"]
        ...     except KeyError as found:
        ...         raise ValueError("no a") from found
        ... except ValueError as error:
        ...     print(list(causes(error)))
        [ValueError('no a'), KeyError('a')]
    """
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [x for x in (one.__cause__, one.__context__) if x is not None]


def machine_fault(error: BaseException) -> str:
    """Say what it is about this machine that made reading fail; empty where the content may be at fault.

    Args:
        error: what was raised; those that led to it are looked at too.

    Example:
        >>> machine_fault(OSError(errno.EMFILE, "Too many open files"))
        'too many open files; raise the limit with ulimit -n'
        >>> machine_fault(ValueError("invalid literal"))
        ''
    """
    for one in causes(error):
        if isinstance(one, MemoryError):
            return f"out of memory; {_MACHINE[errno.ENOMEM]}"
        if isinstance(one, OSError) and one.errno in _MACHINE:
            named = f" ({one.filename})" if one.filename else ""
            return f"{os.strerror(one.errno).lower()}{named}; {_MACHINE[one.errno]}"
        if _SAID.search(str(one)):
            return str(one).strip().splitlines()[0][:300]
    return ""


@contextlib.contextmanager
def atomic_binary(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file of bytes that takes its name only when the block ends without an error.

    Args:
        path: where the file goes; its folder must exist. A file that is there is replaced in one step.

    Yields:
        The file, to be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_binary(Path(folder) / "a.bin") as file:
        ...         _ = file.write(b"whole")
        ...     (Path(folder) / "a.bin").read_bytes()
        b'whole'
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)  # gone already where all went well


@contextlib.contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a text file, UTF-8 with bare newlines, that takes its name only when the block ends without an error.

    Args:
        path: as for ``atomic_binary``.

    Yields:
        The file, to be written to.
    """
    with atomic_binary(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()  # or it would close the file before it is on the disk


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that takes its name only when the block ends without an error.

    Args:
        path: where it goes; the folders above it are made. A folder that is there stands aside until the new one is in
            its place, and is then removed.

    Yields:
        The folder under another name, empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        scratch.mkdir()
        yield scratch
        if not path.exists():
            scratch.rename(path)
            return
        old = scratch.with_suffix(".old")
        path.rename(old)
        try:
            scratch.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # gone already where all went well


def drop_torn_line(path: str | os.PathLike[str]) -> None:
    """Cut off what a killed writer left of a file's last line; a file that is not there is left so.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "rows.jsonl"
        ...     _ = file.write_text('{"step": 1}\\n{"st')
        ...     drop_torn_line(file)
        ...     file.read_text()
        '{"step": 1}\\n'
    """
    path = Path(path)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Add text at the end of a file; it is on the disk when this returns.

    A process that is killed meanwhile leaves whole lines and at most one that is torn, for ``drop_torn_line``.
    """
    with Path(path).open("ab") as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | os.PathLike[str], value: Any, *, sort_keys: bool = False) -> None:
    """Write a value as indented JSON; the folders above the file are made.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot hold; the old file stays.
        TypeError: for what JSON cannot hold; the old file stays.
    """
    text = json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(path) as file:
        file.write(text)
