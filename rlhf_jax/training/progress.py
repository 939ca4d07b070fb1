"""Progress for people: a bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from rlhf_jax import processes


def duration(seconds: float) -> str:
    """Write a time span as text.

    Args:
        seconds: its length.

    Returns:
        Hours (if any), minutes and seconds.

    Example:
        >>> duration(75), duration(3725)
        ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A display of how far a stage is, its rate and the time left.

    Args:
        stage: its name.
        total: number of steps.
        start: steps that were done before (after a resume); they do not count towards the rate.
        stream: where to write; standard error when not given. A bar is drawn if it is a terminal.
        every: seconds between two plain lines.
        clock: seconds that only go up.

    Example:
        >>> import sys
        >>> ticks = iter([0.0, 10.0, 20.0, 20.0])
        >>> with Progress("sft", 4, stream=sys.stdout, clock=lambda: next(ticks)) as progress:
        ...     progress.update(1, {"loss": 2.5})
        ...     progress.update(2, {"loss": 2.25})
        sft 2/4  0.1 steps/s  0:20 left  loss 2.25
        sft 2/4 after 0:20  loss 2.25
    """

    def __init__(
        self,
        stage: str,
        total: int,
        *,
        start: int = 0,
        stream: TextIO | None = None,
        every: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stage, self._total, self._start, self._done = stage, total, start, start
        self._stream = sys.stderr if stream is None else stream
        self._every, self._clock = every, clock
        self._began = self._spoke = clock()
        self._note = ""
        self._silent = not processes.first()
        self._bar: Any = _bar(stage, total, start, self._stream) if self._stream.isatty() and not self._silent else None

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Tell how far the stage is.

        Args:
            done: steps done.
            values: a few numbers to show.
        """
        self._done, self._note = done, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=self._note)
            return
        now = self._clock()
        if not self._silent and now - self._spoke >= self._every:
            self._spoke = now
            rate = (done - self._start) / max(now - self._began, 1e-9)
            left = duration((self._total - done) / rate) if rate > 0 else "?"
            self._say(f"{self._rate_text(rate)}  {left} left")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done > self._start and not self._silent:
            print(self._line(f" after {duration(self._clock() - self._began)}"), file=self._stream, flush=True)

    @staticmethod
    def _rate_text(rate: float) -> str:
        return f"{rate:.3g} steps/s"

    def _line(self, middle: str) -> str:
        return f"{self._stage} {self._done}/{self._total}{middle}" + (f"  {self._note}" if self._note else "")

    def _say(self, text: str) -> None:
        print(self._line(f"  {text}"), file=self._stream, flush=True)


def _bar(stage: str, total: int, start: int, stream: TextIO) -> Any:
    """Draw a bar with steps, rate, time left and a note; rich is loaded only where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.3g} steps/s" if task.speed else "... steps/s")

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
    )
    bar.add_task(stage, total=total, completed=start, note="")
    return bar
