"""Stopping at a step boundary: SIGTERM, SIGHUP and Ctrl-C set a flag, and the loop saves before it leaves."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jax.experimental.multihost_utils import reached_preemption_sync_point

from rlhf_jax import processes


class Interrupted(Exception):
    """A run that was asked to stop, and did, at a step boundary, with everything saved.

    Args:
        stage: which stage.
        step: number of updates done and saved.
        signum: the signal that asked.

    Example:
        >>> Interrupted("sft", 12, 15).exit_code
        143
    """

    def __init__(self, stage: str, step: int, signum: int):
        super().__init__(
            f"{stage} stopped at step {step} on {signal.Signals(signum).name}; the same command continues from there"
        )
        self.stage = stage
        self.step = step
        self.exit_code = 128 + signum  # what shells and schedulers expect: 143 for SIGTERM, 130 for Ctrl-C


# What asks a run to stop. SIGHUP comes where a terminal or a connection closes; Windows has none.
_STOPS = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

# Where all are to stop is a number of questions from here: steps begin anew in every stage, and jump where one goes on.
_ASKED = itertools.count(1)


class StopSignals:
    """A block in which SIGTERM, SIGINT and SIGHUP are noted in ``received`` and do nothing else.

    A SIGHUP that was ignored before, as ``nohup`` has it, stays ignored. A second SIGINT raises ``KeyboardInterrupt``
    at once. Outside the main thread Python allows no handlers, and none are set.

    Example:
        >>> import os, signal
        >>> with StopSignals() as stop:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     stop.received == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in _STOPS:
                if signum not in (signal.SIGTERM, signal.SIGINT) and signal.getsignal(signum) == signal.SIG_IGN:
                    continue
                if not processes.several():
                    self._before[signum] = signal.signal(signum, self._note)
                elif signum != signal.SIGTERM:  # JAX has a handler of its own for that one
                    self._before[signum] = signal.signal(signum, _pass_on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def asked(self) -> int | None:
        """Ask whether to stop now, at a boundary between steps: the signal, or None.

        Where there are several processes, a signal to one is a signal to all, and they stop after the same step. JAX
        keeps the handler of SIGTERM for that, and finds the step; every process has to ask equally often. A signal that
        comes between two stages, or before the first step, is answered at the next boundary.
        """
        if not processes.several():
            return self.received
        return signal.SIGTERM if reached_preemption_sync_point(next(_ASKED)) else None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum


def _pass_on(signum: int, frame: FrameType | None) -> None:
    """Turn Ctrl-C or SIGHUP in one of several processes into the signal that all of them agree on."""
    del signum, frame
    os.kill(os.getpid(), signal.SIGTERM)
