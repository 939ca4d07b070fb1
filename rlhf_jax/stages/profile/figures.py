"""What a profile holds: phases, with their seconds and the least that is possible, compilation, memory, kernels."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from rlhf_jax.parallel.limits import Limits


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a step or an iteration: what it took, and what it had to do."""

    name: str
    seconds: float  # the shortest of the repeats
    tokens: float = 0.0  # 0: the phase works on no tokens
    flops: float = 0.0  # those that `models.costs` counts
    least: float = 0.0  # seconds that the devices need at their limits; 0: nothing to do on them

    @property
    def fraction(self) -> float:
        """How much of the limit it reaches: 1 is as fast as the devices can be."""
        return self.least / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Make the phase's object in ``rlhf profile --json``."""
        return {
            **dataclasses.asdict(self),
            "tokens_per_second": self.tokens / self.seconds,
            "fraction_of_limit": self.fraction if self.least else None,
        }


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the time of a stage goes."""

    stage: str
    device: str
    devices: int
    limits: Limits  # one device's
    work: str  # what was run, in words
    phases: tuple[Phase, ...]
    compile_seconds: float  # tracing, lowering and compiling, or reading back, everything that ran
    programs: int  # compiled, or read back
    read_back: int  # found among the programs that earlier runs had compiled
    peak_bytes: int
    peak_of: str  # "device", or "process" where the device does not say
    kernels: dict[str, str]
    trace: str  # folder; empty where none was asked for

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(phase.seconds for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Make the object that ``rlhf profile --json`` prints."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        phases = [phase.to_json() for phase in self.phases]
        return {**fields, "limits": self.limits._asdict(), "phases": phases, "seconds": self.seconds}


class Compilations:
    """A count of the programs that JAX compiles while it is watched, and of the seconds that takes."""

    def __init__(self) -> None:
        self.seconds, self.programs, self.read_back = 0.0, 0, 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count what is compiled inside."""
        jax.monitoring.register_event_duration_secs_listener(self._took)
        jax.monitoring.register_event_listener(self._happened)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(self._took)
            jax.monitoring.unregister_event_listener(self._happened)

    def _took(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
            self.programs += event.endswith("backend_compile_duration")

    def _happened(self, event: str, **kwargs: str | int) -> None:
        self.read_back += event == "/jax/compilation_cache/cache_hits"


class Laps:
    """A stopwatch for the phases of one iteration, each waited for; over iterations the shortest counts."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        """Begin an iteration."""
        self._last = time.perf_counter()

    def lap(self, name: str, result: Any) -> None:
        """Wait for what a phase gave, and note its time."""
        jax.block_until_ready(result)
        now = time.perf_counter()
        self.best[name] = min(now - self._last, self.best.get(name, float("inf")))
        self._last = now


def repeated(
    iterate: Callable[[int], None],
    laps: Laps,
    repeats: int,
    trace: Path | None,
    *,
    traced: Callable[[int], None] | None = None,
) -> Compilations:
    """Run an iteration once to compile it, several times to measure it, and once more to trace it.

    Args:
        iterate: ``(number) -> None``; it laps on ``laps``.
        laps: its stopwatch; what the first iteration took is thrown away.
        repeats: how many are measured.
        trace: where a trace goes; None makes none.
        traced: what the trace is of, in place of one more iteration; it is run once before.
    """
    compilations = Compilations()
    with compilations.watched():
        iterate(0)
        iterate(1)  # what the first one returned may lie elsewhere than what it was given, and compile again
    laps.best.clear()
    for number in range(repeats):
        iterate(2 + number)
    measured = dict(laps.best)
    if trace is not None:
        if traced is not None:
            traced(2 + repeats)
        with jax.profiler.trace(str(trace), create_perfetto_trace=True):
            (traced or iterate)(2 + repeats)
    laps.best = measured
    return compilations


def peak_memory(device: jax.Device) -> tuple[int, str]:
    """Read the most bytes that were in use, and whether the device said so or the whole process is meant."""
    said = device.memory_stats() or {}
    if "peak_bytes_in_use" in said:
        return int(said["peak_bytes_in_use"]), "device"
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024), "process"
