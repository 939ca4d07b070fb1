"""Start copies of a command, watch them, and stop them together; the first that fails gives the status of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlhf_jax.parallel.launching import leash
from rlhf_jax.parallel.launching.environment import gpus, places
from rlhf_jax.parallel.launching.output import Output

# Starting again does not help: a mistake in the command, or somebody has stopped it.
FINAL = frozenset({2, 128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM})

_LOOK = 0.05  # seconds between two looks at the processes
_LAST = 10.0  # seconds from SIGTERM to SIGKILL, after the grace
_LONGEST_PAUSE = 60.0


class Stop:
    """What the launcher has been told by signals."""

    def __init__(self) -> None:
        self.name = ""  # that the first signal has
        self.at_once = False

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal: the first asks all processes to stop, a second Ctrl-C kills them."""
        del frame
        self.at_once = self.at_once or (bool(self.name) and signum == signal.SIGINT)
        self.name = self.name or signal.Signals(signum).name


def launch(
    command: Sequence[str],
    processes: int,
    *,
    devices: int = 0,
    grace: float = 60.0,
    restarts: int = 0,
    pause: float = 1.0,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command in several processes of this machine until all have ended.

    Args:
        command: program and arguments; the program has to be there.
        processes: how many copies.
        devices: how many one process has; see ``places``.
        grace: seconds that the others have to end by themselves after one has failed.
        restarts: how often all are started again after a failure that may pass.
        pause: seconds before they are started again the first time; it doubles, up to a minute.
        environment: variables by name; by default this process'.

    Returns:
        The exit status of the process that failed first, 128 and the signal's number if one ended it; 0 if all did
        what they should.

    Raises:
        LaunchError: there are fewer than one process, or fewer GPUs than they need.
    """
    environment = os.environ if environment is None else environment
    output = Output()
    with _signals() as stop:
        for again in range(restarts + 1):
            own = places(processes, devices, environment, gpus=gpus(environment))
            status = _run_once(command, own, grace, stop, output)
            if status == 0 or status in FINAL or stop.name or again == restarts:
                break
            wait = min(pause * 2**again, _LONGEST_PAUSE)
            output.say(f"all start again in {wait:g} s, restart {again + 1} of {restarts}")
            _sleep(wait, stop)
            if stop.name:
                break
    return status


@contextmanager
def _signals() -> Iterator[Stop]:
    stop = Stop()
    before = {x: signal.signal(x, stop.note) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _sleep(seconds: float, stop: Stop) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.name:
        time.sleep(_LOOK)


def _run_once(
    command: Sequence[str], own: Sequence[Mapping[str, str]], grace: float, stop: Stop, output: Output
) -> int:
    children: list[subprocess.Popen[bytes]] = []
    try:
        for index, environment in enumerate(own):
            children.append(_start(command, index, environment, output))
        return _watch(children, grace, stop, output)
    finally:
        for child in children:
            _signal(child, signal.SIGKILL)
            child.wait()
        output.end()


def _start(
    command: Sequence[str], index: int, environment: Mapping[str, str], output: Output
) -> subprocess.Popen[bytes]:
    # A group of its own: what a terminal sends on Ctrl-C reaches the launcher alone, which passes it on once.
    leashed = [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid()), *command]
    stdout, stderr = output.streams(index)
    child = subprocess.Popen(
        leashed, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
    )
    output.listen(index, child)
    return child


def _watch(children: Sequence[subprocess.Popen[bytes]], grace: float, stop: Stop, output: Output) -> int:
    """Wait for all; pass signals on; after a failure, give the others a while."""
    ended: set[int] = set()
    failed, asked, deadline, last = 0, False, float("inf"), False
    while len(ended) < len(children):
        for index, child in enumerate(children):
            if index in ended or child.poll() is None:
                continue
            ended.add(index)
            _signal(child, signal.SIGKILL)  # whoever it has left behind
            status = _status(child.returncode)
            left = len(children) - len(ended)
            if status and not failed:
                failed = status
                in_order = bool(stop.name) and status in FINAL
                if not in_order:
                    deadline = time.monotonic() + grace
                    output.say(_what_happened(index, len(children), child.returncode, left, grace))
        if stop.name and not asked:
            asked = True
            output.say(f"{stop.name}: all processes are asked to stop; Ctrl-C (again) kills them")
            _signal_all(children, signal.SIGTERM)
        if stop.at_once:
            _signal_all(children, signal.SIGKILL)
        if time.monotonic() > deadline:
            running = ", ".join(str(i) for i in range(len(children)) if i not in ended)
            output.say(f"still running after that: {running}; {'killed' if last else 'sent SIGTERM'}")
            _signal_all(children, signal.SIGKILL if last else signal.SIGTERM)
            last, deadline = True, float("inf") if last else time.monotonic() + _LAST
        time.sleep(_LOOK)
    return failed


def _what_happened(index: int, count: int, code: int, left: int, grace: float) -> str:
    names = {known.value: known.name for known in signal.Signals}
    how = f"ended with status {code}" if code >= 0 else f"was ended by {names.get(-code, f'signal {-code}')}"
    others = {0: "", 1: f"; the other one has {grace:g} s to end"}.get(left, f"; the others have {grace:g} s to end")
    return f"process {index} of {count} {how}{others}"


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _signal_all(children: Sequence[subprocess.Popen[bytes]], signum: int) -> None:
    for child in children:
        if child.returncode is None:
            _signal(child, signum)


def _signal(child: subprocess.Popen[bytes], signum: int) -> None:
    try:
        os.killpg(child.pid, signum)
    except (ProcessLookupError, PermissionError):  # the last: on macOS, a group of processes that have just ended
        return
