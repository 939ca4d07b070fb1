"""Stopping at a step boundary: SIGTERM and Ctrl-C set a flag, and the loop saves before it leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


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


class StopSignals:
    """A block in which SIGTERM and SIGINT are noted in ``received`` and do nothing else.

    A second SIGINT raises ``KeyboardInterrupt`` at once. Outside the main thread Python allows no handlers, and none
    are set.

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
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum
