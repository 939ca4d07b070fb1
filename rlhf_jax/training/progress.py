"""Progress for people: a bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import errno
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


class Pace:
    """How fast steps are done, without what happens once: the first step compiles, and so may the first evaluation.

    The time of the first step of a process does not count, nor does the longest step after it. Before there is another
    step to judge by, nothing is known.

    Args:
        start: steps that were done before.
        began: when the first one began, seconds.

    Example:
        >>> pace = Pace(0, 0.0)
        >>> for done, now in ((1, 60.0), (2, 61.0), (3, 91.0), (4, 92.0)):
        ...     pace.did(done, now)
        >>> pace.rate, pace.left(100)
        (1.0, '1:36')
    """

    def __init__(self, start: int, began: float):
        self._first = self._last = (start, began)
        self._longest = (0, 0.0)
        self._counts = False

    def did(self, done: int, now: float) -> None:
        """Take note that so many steps are done."""
        step = (done - self._last[0], now - self._last[1])
        self._last = (done, now)
        if not self._counts and step[0] == 1:
            self._first = self._last
        elif step[1] > self._longest[1]:
            self._longest = step
        self._counts = True

    @property
    def rate(self) -> float:
        """The speed, steps a second; 0 while that is not known."""
        steps, seconds = (self._last[i] - self._first[i] for i in (0, 1))
        if steps > self._longest[0]:
            steps, seconds = steps - self._longest[0], seconds - self._longest[1]
        return steps / max(seconds, 1e-9)

    def left(self, total: int) -> str:
        """Say how long the rest takes, as text; ``?`` while that is not known."""
        return duration((total - self._last[0]) / self.rate) if self.rate > 0 else "?"


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
        self._pace = Pace(start, self._began)
        self._note = ""
        self._silent = not processes.first()
        self._bar: Any = (
            _bar(stage, total, start, self._pace, self._stream) if self._stream.isatty() and not self._silent else None
        )

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Tell how far the stage is.

        Args:
            done: steps done.
            values: a few numbers to show.
        """
        self._done, self._note = done, "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        now = self._clock()
        self._pace.did(done, now)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=self._note)
        elif not self._silent and now - self._spoke >= self._every:
            self._spoke = now
            self._say(f"{_rate_text(self._pace.rate)}  {self._pace.left(self._total)} left")

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
            self._say(f"after {duration(self._clock() - self._began)}", " ")

    def _line(self, middle: str) -> str:
        return f"{self._stage} {self._done}/{self._total}{middle}" + (f"  {self._note}" if self._note else "")

    def _say(self, text: str, space: str = "  ") -> None:
        try:
            print(self._line(f"{space}{text}"), file=self._stream, flush=True)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._silent = True  # the terminal has closed; whether the run stops, its SIGHUP decides


def _rate_text(rate: float) -> str:
    return f"{rate:.3g} steps/s" if rate > 0 else "... steps/s"


def _bar(stage: str, total: int, start: int, pace: Pace, stream: TextIO) -> Any:
    """Draw a bar with steps, rate, time left and a note; rich is loaded only where there is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{_rate_text(pace.rate)}  {pace.left(total)} left")

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
    )
    bar.add_task(stage, total=total, completed=start, note="")
    return bar
