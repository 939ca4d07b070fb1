"""Metrics on disk: one JSON row a step in ``metrics.jsonl``, and the same curves for TensorBoard.

The JSONL file is the record; TensorBoard's events are a view of it and are made anew from it after a resume.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rlhf_jax import processes
from rlhf_jax.files import atomic_binary, drop_torn_line
from rlhf_jax.training.tracking import Tracking

Row = dict[str, Any]


def read_metrics(path: str | os.PathLike[str], stage: str | None = None) -> list[Row]:
    """Read the rows of a metrics file.

    Args:
        path: a ``metrics.jsonl``; one that does not exist yet has no rows.
        stage: only this stage's rows; all when not given.

    Returns:
        Rows in the order they were written. A torn last line (the writer was killed, or is writing) is left out.

    Raises:
        ValueError: a line before the last is not a JSON object; the message names file and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with MetricsWriter(folder, "sft") as writer:
        ...         writer.write(1, {"loss": 2.5})
        ...     read_metrics(Path(folder) / "metrics.jsonl")
        [{'stage': 'sft', 'step': 1, 'sft/loss': 2.5}]
    """
    file = Path(path)
    if not file.exists():
        return []
    *lines, tail = file.read_bytes().split(b"\n")
    del tail  # after the last newline: empty, or torn
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: not a row of metrics ({error}); put the line right to go on") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{file}:{number}: expected a JSON object, found {line[:40]!r}; put the line right to go on"
            )
        if stage is None or row.get("stage") == stage:
            rows.append(row)
    return rows


class MetricsWriter:
    """A writer of a stage's rows: to ``DIRECTORY/metrics.jsonl``, and to TensorBoard in ``DIRECTORY/events/STAGE``.

    Args:
        directory: the run's folder; made if needed. Several stages may share it, one at a time.
        stage: name put before every metric, as in ``sft/loss``.
        tracking: given every row that is written, if there is one. Rows of steps that a resumed run does again come
            again.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, MetricsWriter(folder, "sft") as writer:
        ...     writer.write(1, {"loss": 2.5})
        ...     writer.write(2, {"loss": float("nan")})
        ...     writer.rewind(1)
        ...     writer.rows()
        [{'stage': 'sft', 'step': 1, 'sft/loss': 2.5}]
    """

    def __init__(self, directory: str | os.PathLike[str], stage: str, tracking: Tracking | None = None):
        self.stage, self._tracking = stage, tracking
        self.path = Path(directory) / "metrics.jsonl"
        self._events_folder = Path(directory) / "events" / stage
        self._events: Any = None
        self._file: Any = None  # where there are several processes, the first alone writes
        if processes.first():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            drop_torn_line(self.path)
            self._file = self.path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row; it is in the file when this returns.

        Args:
            step: number of updates done.
            values: numbers by name. A number that is not finite becomes null.
        """
        if self._file is None:
            return
        row: Row = {"stage": self.stage, "step": step}
        for name, value in values.items():
            row[f"{self.stage}/{name}"] = float(value) if math.isfinite(value) else None
        # One write call a row: a kill leaves whole rows and at most one torn line, the last.
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._event(row)
        if self._tracking is not None:
            self._tracking(row)

    def rows(self) -> list[Row]:
        """Read this stage's rows so far.

        Returns:
            Rows as ``read_metrics`` gives them.
        """
        return processes.from_first(lambda: read_metrics(self.path, self.stage), "reading metrics")

    def rewind(self, step: int) -> None:
        """Take back this stage's rows after a step, so that a resumed run writes them once.

        Args:
            step: the last step to keep.
        """
        if self._file is None:
            return
        kept = [row for row in read_metrics(self.path) if row["stage"] != self.stage or row["step"] <= step]
        self._file.close()
        self._replace(b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        self._file = self.path.open("ab", buffering=0)
        self._close_events()
        if self._events_folder.exists():
            shutil.rmtree(self._events_folder)
        for row in kept:
            if row["stage"] == self.stage:
                self._event(row)

    def close(self) -> None:
        """Close both files."""
        if self._file is not None:
            self._file.close()
        self._close_events()
        if self._tracking is not None:
            self._tracking.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, row: Row) -> None:
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self._events_folder), flush_secs=10)
        for name, value in row.items():
            if name not in ("stage", "step") and value is not None:
                self._events.add_scalar(name, value, row["step"])

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _replace(self, content: bytes) -> None:
        with atomic_binary(self.path) as file:
            file.write(content)
