"""What a loop is doing at this moment, and the seconds that each kind of work has taken so far.

One thread does the work and says what it is at; others, a watchdog say, may look. Nothing is printed or written here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

COMPILE = "compile"
"""The phase that compilation is counted under, whichever phase it happened in."""
OUTSIDE = ""
"""The phase of a loop that has said nothing."""


class Now(NamedTuple):
    """What a loop is at: its step, the phase, since when, and a number that grows with every change."""

    step: int
    phase: str
    since: float  # the clock's seconds when this phase was entered, or last come back to
    changes: int
    first: bool  # no earlier phase of this name has ended, so its programs may be compiling


class Phases:
    """A record of the phases of a loop.

    Phases may lie in one another; a second belongs to the innermost alone. What JAX compiles inside ``watched`` is
    taken out of the phase it happens in and counted as ``compile``.

    Args:
        clock: seconds that only go up.

    Example:
        >>> ticks = iter([0.0, 1.0, 2.0, 5.0, 6.0, 6.0])
        >>> phases = Phases(clock=lambda: next(ticks))
        >>> with phases.during("update"):
        ...     with phases.during("reward"):
        ...         phases.now().phase
        'reward'
        >>> phases.seconds()
        {'': 1.0, 'update': 2.0, 'reward': 3.0}
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.began_at = time.time()  # the wall's clock, to place this process beside others
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {OUTSIDE: 0.0}
        self._stack = [OUTSIDE]
        self._ended: set[str] = set()
        self._step = self._changes = 0
        self._since = self._counted = clock()
        self._compiled: list[tuple[float, float]] = []  # (when it began, seconds) of spans that lie in no other
        self._worker = threading.get_ident()

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Say what is done inside.

        Args:
            phase: a short name.
        """
        self._change(lambda: self._stack.append(phase))
        try:
            yield
        finally:
            self._change(self._leave)

    def at(self, step: int) -> None:
        """Say which step begins.

        Args:
            step: its number, from 1.
        """
        with self._lock:
            self._step = step
            self._changes += 1

    def now(self) -> Now:
        """Look at what the loop is doing; any thread may.

        Returns:
            The step and the innermost phase.
        """
        with self._lock:
            phase = self._stack[-1]
            return Now(self._step, phase, self._since, self._changes, phase not in self._ended)

    def seconds(self) -> dict[str, float]:
        """Count the seconds so far.

        Returns:
            Seconds by phase, in the order in which phases were first entered. Their sum is the time since this record
            was made.
        """
        with self._lock:
            self._count()
            return dict(self._seconds)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count what JAX traces and compiles inside, in the thread that does the work."""
        self._worker = threading.get_ident()
        jax.monitoring.register_event_time_span_listener(self.compiled)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_time_span_listener(self.compiled)

    def compiled(self, event: str, start_time: float, end_time: float, **kwargs: str | int) -> None:
        """Take a span of compilation out of the phase in which it happened; a listener for ``jax.monitoring``.

        Tracing a function traces those that it calls, each of which is a span of its own: a second that lies in several
        spans is counted once.

        Args:
            event: JAX's name for it; what does not begin with ``/jax/core/compile/`` is passed over.
            start_time: when it began, by JAX's clock.
            end_time: when it ended, which is now.
            **kwargs: what else JAX says of it, which is not looked at.
        """
        if not event.startswith("/jax/core/compile/") or threading.get_ident() != self._worker:
            return
        with self._lock:
            self._count()
            inside = 0.0
            while self._compiled and self._compiled[-1][0] >= start_time:
                inside += self._compiled.pop()[1]
            self._compiled.append((start_time, end_time - start_time))
            phase = self._stack[-1]
            # The two clocks need not agree to the last digit.
            more = min(max(end_time - start_time - inside, 0.0), self._seconds[phase])
            self._seconds[phase] -= more
            self._seconds[COMPILE] = self._seconds.get(COMPILE, 0.0) + more

    def _change(self, act: Callable[[], object]) -> None:
        with self._lock:
            self._count()
            act()
            self._seconds.setdefault(self._stack[-1], 0.0)
            self._since = self._counted
            self._changes += 1

    def _leave(self) -> None:
        self._ended.add(self._stack.pop())

    def _count(self) -> None:
        now = self.clock()
        self._seconds[self._stack[-1]] += now - self._counted
        self._counted = now
