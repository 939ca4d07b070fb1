"""A watch over a loop that may hang: in a collective that a dead process never joins, in a reward that never answers.

A hung loop cannot report itself, so a thread looks at its ``Phases`` now and then. It reads nothing from the devices.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rlhf_jax import processes
from rlhf_jax.training.phases import OUTSIDE, Phases
from rlhf_jax.training.progress import duration

HUNG = 75
"""The exit status of a process that its watchdog ended: "try again", which no error and no signal of ours gives."""


class Watchdog:
    """A thread that reports a loop whose step and phase have not changed for a while.

    The report says stage, step, phase, process and host, and the stacks of all Python threads go into a file. It is
    made once a hang, and again whenever the wait has doubled. Where processes wait for one another all of them report;
    the one at fault is the one in another phase, or the one that is silent.

    Args:
        phases: what the loop says of itself.
        stage: its name.
        seconds: how long it may be silent; 0 watches nothing.
        folder: where ``hung_STAGE_processN.txt`` with the stacks goes; made if needed.
        process: this process's number and how many there are.
        ends: end the process with status ``HUNG`` after the first report, for a wrapper that starts it again.
        stream: where reports go; standard error when not given.
        end: what ends the process. A thread cannot raise in another one that hangs in native code, so it is
            ``os._exit``; what was saved is on disk, whole.

    Raises:
        ValueError: seconds is negative.

    Example:
        >>> import tempfile
        >>> ticks = iter([0.0, 0.0, 10.0, 10.0, 50.0])
        >>> phases = Phases(clock=lambda: next(ticks))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     watchdog = Watchdog(phases, stage="sft", seconds=60, folder=folder)
        ...     phases.at(12)
        ...     watchdog.look(), watchdog.look()
        (False, False)
    """

    def __init__(
        self,
        phases: Phases,
        *,
        stage: str,
        seconds: float,
        folder: str | os.PathLike[str],
        process: tuple[int, int] = (0, 1),
        ends: bool = False,
        stream: TextIO | None = None,
        end: Callable[[int], object] = os._exit,
    ):
        if not seconds >= 0:
            raise ValueError(f"{stage}: watchdog_seconds must not be negative, found {seconds}")
        self.path = Path(folder) / f"hung_{stage}_process{process[0]}.txt"
        self._phases, self._stage, self._seconds, self._process = phases, stage, seconds, process
        self._ends, self._stream, self._end = ends, stream, end
        self._changes, self._moved, self._limit = -1, phases.clock(), seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Look at the loop once, and report it if it has been silent for too long.

        Returns:
            Whether it reported.
        """
        now, at = self._phases.now(), self._phases.clock()
        if now.changes != self._changes:
            if self._limit > self._seconds:
                silent = duration(at - self._moved)
                self._say(f"{self._stage}: watchdog: it goes on, after {silent}, at step {now.step}")
            self._changes, self._moved, self._limit = now.changes, at, self._seconds
            return False
        if at - self._moved < self._limit:
            return False
        waited = at - self._moved
        self._limit = 2 * max(waited, self._limit)
        number, count = self._process
        phase = f"phase {now.phase!r}" if now.phase != OUTSIDE else "no phase"
        compiling = " (its first time in this process, so it may be compiling)" if now.first and now.phase else ""
        then = f"; the process ends with status {HUNG}" if self._ends else ""
        self._say(
            f"{self._stage}: watchdog: no progress for {duration(waited)}: step {now.step}, {phase} for "
            f"{duration(at - now.since)}{compiling}; process {number} of {count} on {platform.node()}, "
            f"pid {os.getpid()}; {self._stacks(now.step, phase)}{then}"
        )
        if self._ends:
            self._end(HUNG)
        return True

    def __enter__(self) -> Watchdog:
        if self._seconds > 0:
            self._thread = threading.Thread(target=self._run, name=f"watchdog-{self._stage}", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # Often enough that a report is late by a tenth, seldom enough that nobody notices.
        while not self._stop.wait(min(self._seconds / 10, 10.0)):
            self.look()

    def _stacks(self, step: int, phase: str) -> str:
        """Add the stacks of all threads to the file, and say where they are."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                when = time.strftime("%Y-%m-%d %H:%M:%S %z")
                file.write(f"{when} {self._stage}, step {step}, {phase}, pid {os.getpid()}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
        except OSError as error:  # a full disk must not silence the report
            return f"the stacks of its threads could not be written ({error})"
        return f"the stacks of all its threads are in {self.path}"

    def _say(self, text: str) -> None:
        # The real one: the command line takes sys.stderr from all processes but the first.
        stream = (sys.stderr if processes.first() else sys.__stderr__) if self._stream is None else self._stream
        print(text, file=stream, flush=True)
