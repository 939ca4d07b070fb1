"""Where the time of a stage went, over all its restarts: ``goodput.jsonl`` in the run folder.

A line holds what one process has spent on the stage so far, by kind, so the newest line of each process says it all;
what lies between two processes is told from their times. A process that is killed loses what came after its last line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.files import drop_torn_line
from rlhf_jax.training.phases import COMPILE, OUTSIDE, Phases

FILE = "goodput.jsonl"
KINDS = ("useful", "compile", "evaluation", "save", "start", "restart", "idle")
"""Every second is of one kind: training steps; tracing and compilation, whenever it happens; evaluations; waiting for
checkpoints and results to be written; what comes before the first step; the same after a resume, the start of its
process and the steps that are made again; the rest, such as the time between two processes."""

_KIND = {
    COMPILE: "compile",
    OUTSIDE: "idle",
    "collect": "useful",
    "prepare": "useful",
    "reward": "useful",
    "update": "useful",
    "wait": "useful",  # for the devices to do the update
    "evaluate": "evaluation",
    "save": "save",
    "restore": "restart",
}
# A line now and then between evaluations and checkpoints bounds what a kill takes from the record.
_EVERY = 60.0
_IMPORTED = time.time()


class Spent(NamedTuple):
    """What a stage has cost so far, over all its processes.

    Example:
        >>> spent = Spent({**dict.fromkeys(KINDS, 0.0), "useful": 6.0, "compile": 2.0}, attempts=1, step=3)
        >>> spent.wall, spent.goodput
        (8.0, 0.75)
    """

    seconds: dict[str, float]  # by kind, all of KINDS
    attempts: int  # processes (or calls) that worked on it
    step: int  # the furthest

    @property
    def wall(self) -> float:
        """Seconds from the first attempt's start to the last line."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The useful share of the wall time; 0 where no time has passed."""
        return self.seconds["useful"] / self.wall if self.wall else 0.0


class GoodputLog:
    """The log of one attempt at a stage, by one process.

    Args:
        directory: the run folder; made with the first line.
        stage: the stage's name.
        phases: what the loop does; read at every step.
        writes: whether this process writes the file: one of many does.
        process_began: the wall clock's time at which this process started; looked up when not given.

    Example:
        >>> import tempfile
        >>> ticks = iter([0.0, 2.0, 2.0, 8.0, 8.0, 9.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     phases = Phases(clock=lambda: next(ticks))
        ...     log = GoodputLog(folder, "sft", phases)
        ...     log.began(step=0)
        ...     with phases.during("update"):
        ...         pass
        ...     log.stepped(1)
        ...     log.write()
        ...     spent = read_goodput(Path(folder) / FILE)["sft"]
        >>> spent.seconds["start"], spent.seconds["useful"], spent.seconds["idle"], spent.step
        (2.0, 6.0, 1.0, 1)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        stage: str,
        phases: Phases,
        *,
        writes: bool = True,
        process_began: float | None = None,
    ):
        self.path = Path(directory) / FILE
        self._stage, self._phases, self._writes = stage, phases, writes
        self._process = process_start() if process_began is None else process_began
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._seen: dict[str, float] = {}
        self._step = self._reached = 0
        self._resumed = self._running = self._wrote = False
        self._written = 0.0

    def began(self, step: int, reached: int = 0) -> None:
        """Say that the loop begins: all time before was preparation.

        Args:
            step: updates done, from which it goes on; above 0 it is a resume.
            reached: the step that an earlier process had come to; those up to it are made again.
        """
        self._resumed, self._reached = step > 0 or reached > 0, reached
        self._take()
        self._running, self._step = True, step

    def stepped(self, step: int, *, write: bool = False) -> None:
        """Say that a step is done, with its evaluation and its checkpoint.

        Args:
            step: its number, from 1.
            write: append a line now; otherwise one is appended where the last is a minute old.
        """
        self._take(again=step <= self._reached)
        self._step = step
        if write or sum(self._seconds.values()) - self._written >= _EVERY:
            self.write()

    def write(self) -> None:
        """Append a line; it is in the file when this returns."""
        self._take()
        self._written = sum(self._seconds.values())
        if not self._writes:
            return
        row = {
            "stage": self._stage,
            "process": round(self._process, 3),
            "start": round(self._phases.began_at, 3),
            "step": self._step,
            "seconds": {kind: round(value, 3) for kind, value in self._seconds.items()},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._wrote:
            drop_torn_line(self.path)
            self._wrote = True
        with self.path.open("ab", buffering=0) as file:  # one write call a line: a kill tears the last line at most
            file.write(json.dumps(row).encode() + b"\n")

    def _take(self, *, again: bool = False) -> None:
        """Give the seconds since the last look to their kinds."""
        found = self._phases.seconds()
        for phase, seconds in found.items():
            self._seconds[self._kind(phase, again)] += seconds - self._seen.get(phase, 0.0)
        self._seen = found

    def _kind(self, phase: str, again: bool) -> str:
        kind = _KIND.get(phase, "idle")
        if kind in ("compile", "save"):
            return kind
        if not self._running:
            return "restart" if self._resumed else "start"
        return "restart" if again else kind


def read_goodput(path: str | os.PathLike[str]) -> dict[str, Spent]:
    """Read where the time of every stage of a run folder went.

    The time between the last line of one process and the start of the next is idle; where the next was started to go
    on with the run (its process is younger than that line), the time that it took to get to the stage is ``restart``.

    Args:
        path: a ``goodput.jsonl``; one that does not exist has no stages.

    Returns:
        By stage, in the order in which they were begun; the kinds add up to the wall time. A torn last line is left
        out.

    Raises:
        ValueError: a line before the last is not one of a goodput log; the message names file and line.

    Example:
        See ``GoodputLog``.
    """
    file = Path(path)
    if not file.exists():
        return {}
    *lines, _torn = file.read_bytes().split(b"\n")
    stages: dict[str, dict[float, Mapping[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            stage, start = row["stage"], float(row["start"])
            row = {**row, "process": float(row["process"]), "step": int(row["step"])}
            row["seconds"] = {kind: float(value) for kind, value in row["seconds"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file}:{number}: not a line of a goodput log ({type(error).__name__}: {error}); "
                "put the line right to go on"
            ) from error
        stages.setdefault(stage, {})[start] = row  # the newest line of an attempt holds all that it did
    return {stage: _spent(attempts) for stage, attempts in stages.items()}


def _spent(attempts: Mapping[float, Mapping[str, Any]]) -> Spent:
    total = dict.fromkeys(KINDS, 0.0)
    ended: float | None = None
    for start, row in sorted(attempts.items()):
        if ended is not None and start > ended:
            starting = start - row["process"] if ended < row["process"] <= start else 0.0
            total["restart"] += starting
            total["idle"] += start - ended - starting
        for kind, seconds in row["seconds"].items():
            total[kind if kind in total else "idle"] += seconds
        ended = start + sum(row["seconds"].values())
    return Spent(total, len(attempts), max(row["step"] for row in attempts.values()))


def process_start() -> float:
    """Look up when this process started, by the wall's clock; where the system does not say, when this was imported."""
    stat, system = Path("/proc/self/stat"), Path("/proc/stat")
    if not (stat.exists() and system.exists()):
        return _IMPORTED
    # The name of the program stands in brackets and may hold blanks.
    ticks = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
    lines = system.read_text(encoding="utf-8").splitlines()
    booted = [int(line.split()[1]) for line in lines if line.startswith("btime ")]
    return min(_IMPORTED, booted[0] + ticks / os.sysconf("SC_CLK_TCK")) if booted else _IMPORTED
