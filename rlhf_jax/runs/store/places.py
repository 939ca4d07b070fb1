"""Which local folder stands for which URL: one edge, at which everything else has to do with folders alone."""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path

from rlhf_jax import processes
from rlhf_jax.runs.fetch import cache_folder
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.store.mirror import Mirror
from rlhf_jax.runs.store.objects import Objects, StoreError, url_of

# What this process works on, and what it reads while a stage runs, by local folder. Reading has folders of its own: a
# run that is worked on must not change under another process of this machine that looks at it.
_WORKED_ON: dict[Path, Mirror] = {}
_READ: dict[Path, Mirror] = {}


def open_run(out: str | os.PathLike[str], *reads: str) -> Path:
    """Find the local folder of a run that a stage writes to; every process calls it.

    A run in a store is fetched first: logs, final parameters and checkpoints that are whole there. It is worked on in
    ``stores/work`` of the cache folder (``RLHF_JAX_CACHE``), which all processes have to see.

    Args:
        out: a folder, which is given back, or a URL.
        reads: other runs that the stage reads, as its config names them, which are fetched too.

    Raises:
        StoreError: the store cannot be reached, or processes do not see the same folder.
        LockedError: another process of this machine works on the run.

    Example:
        >>> open_run("runs/mine", "runs/other:sft").as_posix()
        'runs/mine'
    """
    _READ.clear()
    url = url_of(out)
    directory = Path(out) if url is None else _folder("work", url)
    if url is not None and directory not in _WORKED_ON:
        mirror = Mirror(directory, Objects(url))
        with locked(directory, f"fetching {url}"):  # another process of this machine may be at work in it
            processes.from_first(functools.partial(mirror.bring, checkpoints=True), f"fetching {url}")
            _check_shared(directory)
        _WORKED_ON[directory] = mirror
    for text in reads:
        other = url_of(_without_stage(text))
        if other is None or _folder("work", other) in _WORKED_ON:
            continue
        copy = Mirror(_folder("read", other), Objects(other))
        processes.from_first(functools.partial(copy.bring, checkpoints=False), f"fetching {other}")
        _READ[copy.directory] = copy
    return directory


def local(run: str | os.PathLike[str]) -> Path:
    """Find the folder to read a run in; one in a store is fetched, without its checkpoints, if no stage has done so.

    Args:
        run: a folder, or a URL.

    Raises:
        StoreError: the store cannot be reached.

    Example:
        >>> local("runs/mine").as_posix()
        'runs/mine'
    """
    url = url_of(run)
    if url is None:
        return Path(run)
    work, copy = _folder("work", url), _folder("read", url)
    if work in _WORKED_ON:
        return work
    if copy not in _READ:
        Mirror(copy, Objects(url)).bring(checkpoints=False)
    return copy


def mirror_of(directory: Path) -> Mirror | None:
    """Find the store that a run folder of this process is sent to; None where it is just a folder."""
    return _WORKED_ON.get(directory)


def _folder(kind: str, url: str) -> Path:
    scheme, _, place = url.partition("://")
    return (cache_folder() / "stores" / kind / scheme / place).resolve()


def _without_stage(text: str) -> str:
    run, colon, stage = text.rpartition(":")
    return run if colon and "/" not in stage else text


def _check_shared(directory: Path) -> None:
    """Raise a StoreError in all processes where one does not see the folder that the first works in."""
    if not processes.several():
        return
    file = directory / ".shared"

    def write() -> str:
        token = uuid.uuid4().hex
        file.write_text(token, encoding="utf-8")
        return token

    token = processes.from_first(write, f"writing {file}")

    def look() -> None:
        if not file.is_file() or file.read_text(encoding="utf-8") != token:
            raise StoreError(
                f"{directory} is another folder in this process than in process 0: name one that all hosts share with "
                "RLHF_JAX_CACHE"
            )

    processes.agree(look, f"looking into {directory}")
