"""Who has a run folder: RUN/.lock names host, process and since when, so that two runs never write to one folder.

The processes of one run have the folder together, through the first of them. A lock whose process is dead is taken
over; that of another machine, where no process can be looked up, once nobody has touched it for ``SILENT`` seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_jax import processes
from rlhf_jax.runs.errors import RunError

BEAT = 10.0  # seconds between two touches of the lock by whoever holds it
SILENT = 120.0  # after so many seconds without one, another machine's lock is stale; network disks show times late
_BEING_WRITTEN = 5.0  # seconds that a lock may be without content


class LockedError(RunError):
    """A run folder that another process has, for a while: the message says which, and the exit status is 75."""

    exit_code = 75


class _Held:
    """A lock that this process has, and in the first process of a run the thread that keeps it fresh."""

    def __init__(self, path: Path, token: str):
        self.path, self.token, self.thread, self.depth, self.lost = path, token, threading.get_ident(), 1, False
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name=f"lock of {path.parent}")
        if processes.first():
            self._beating.start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            if _read(self.path).get("token") != self.token:
                self.lost = True
                return
            with contextlib.suppress(OSError):  # a disk that is away for a while; the next beat tries again
                os.utime(self.path)

    def release(self) -> None:
        if not processes.first():
            return
        self._stop.set()
        self._beating.join()
        if _read(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)


_HELD: dict[str, _Held] = {}  # by the folder's real path


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Have a run folder alone while the block runs; inside it the same thread may ask again.

    Args:
        directory: the run folder; it is made, and goes again where the block leaves nothing in it.
        what: what the folder is wanted for, for the message that others get.

    Raises:
        LockedError: another process, or another thread of this one, has it.
    """
    key = str(directory.resolve())
    mine = _HELD.get(key)
    if mine is not None and mine.thread == threading.get_ident():
        mine.depth += 1
        try:
            yield
        finally:
            mine.depth -= 1
        return
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    token = processes.from_first(lambda: _acquire(directory, what), f"opening {directory}")
    _HELD[key] = _Held(directory / ".lock", token)  # in every process, so that none asks the others again inside
    try:
        yield
    finally:
        _HELD.pop(key).release()
        if processes.first():
            with contextlib.suppress(OSError):  # something is in it, as it should be
                for path in made:
                    path.rmdir()


def check(directory: Path) -> None:
    """Raise a LockedError where another process has taken this process's lock over, so that it stops writing."""
    mine = _HELD.get(str(directory.resolve()))
    if mine is not None and mine.lost:
        raise LockedError(
            f"{directory}: {_who(_read(mine.path))} took the folder over, as this process had not been heard of; it "
            "stops here, and the other goes on"
        )


def _acquire(directory: Path, what: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    path, token = directory / ".lock", uuid.uuid4().hex
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    own = {**_me(), "what": what, "since": since, "token": token}
    deadline = time.monotonic() + _BEING_WRITTEN
    while True:
        try:
            # Whoever creates it has it; that holds on network disks too.
            opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            owner = _read(path)
            if not owner and time.monotonic() < deadline:  # gone by now, or just being written
                time.sleep(0.05)
                continue
            if not _stale(path, owner):
                raise LockedError(
                    f"{directory} is in use: {_who(owner)} has had it since {owner.get('since', 'a moment ago')} "
                    f"({owner.get('what', 'no word what for')}). Wait until it has ended, or name another folder "
                    "with --out"
                ) from None
            _clear(path, owner, token)
            continue
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            json.dump(own, file)
            file.flush()
            os.fsync(file.fileno())
        return token


def _clear(path: Path, owner: dict[str, Any], token: str) -> None:
    """Take a stale lock out of the way; one that somebody else has put in its place meanwhile is put back."""
    aside = path.with_name(f".lock.{token}")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another was faster
        return
    if _read(aside).get("token") != owner.get("token"):
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not yet written
        return {}
    return found if isinstance(found, dict) else {}


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> str:
    """Tell machines apart, and containers on one, which count their processes each for itself."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return f"{boot.read_text().strip()} {os.readlink(space)}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str:
    """When a process began, in the kernel's own count, since its number may be another's later; empty if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _stale(path: Path, owner: dict[str, Any]) -> bool:
    if owner.get("machine") == _machine() and os.name == "posix" and isinstance(owner.get("pid"), int):
        return not _lives(path, owner["pid"], owner.get("started"))
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(path.parent) - touched > SILENT


def _lives(path: Path, pid: int, started: Any) -> bool:
    if pid == os.getpid():
        return str(path.parent.resolve()) in _HELD  # by another thread; what is not known here is of an earlier process
    if Path("/proc/self/stat").exists():
        return bool(_started(pid)) and started in ("", None, _started(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now(directory: Path) -> float:
    """Ask the disk for the time: its clock, which stamps the lock, may not be this machine's."""
    probe = directory / f".lock.{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _who(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner.get('host')}" if "pid" in owner else "another process"
