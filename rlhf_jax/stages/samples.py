"""RUN/samples.jsonl: what a policy answers, at every evaluation and in the final comparison.

Rows with a ``step`` come from an evaluation: ``stage``, ``step``, ``prompt``, ``response`` and the scores. All others
come from the final comparison, as ``comparison.compare`` makes them, and stand first. A stage replaces the rows of its
own evaluations, and the comparison that an earlier stage left; the evaluations of other stages stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax import processes
from rlhf_jax.data import write_jsonl
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.order import evenly
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.comparison import Judged

SHOWN = 2  # held-out prompts whose responses are kept at every evaluation

Row = dict[str, Any]


class SampleLog:
    """A stage's part of RUN/samples.jsonl; the file is replaced in one step whenever something is added.

    Args:
        directory: the run folder.
        stage: names the rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = SampleLog(Path(folder), "ppo")
        ...     log.add(10, [{"prompt": "The cat", "response": "sat."}])
        ...     log.add(20, [{"prompt": "The cat", "response": "purred."}])
        ...     log.rewind(10)
        ...     log.compare([{"prompt": "The dog", "before": "ate.", "after": "slept."}])
        ...     print(log.path.read_text(), end="")
        {"prompt": "The dog", "before": "ate.", "after": "slept."}
        {"stage": "ppo", "step": 10, "prompt": "The cat", "response": "sat."}
    """

    def __init__(self, directory: Path, stage: str):
        self.path, self.stage = directory / "samples.jsonl", stage

    def rewind(self, step: int) -> None:
        """Take back this stage's evaluations after a step, so that a resumed run writes them once."""
        take_back(self.path, self.stage, step)

    def add(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the samples of one evaluation."""
        if not processes.first():
            return
        named = ({"stage": self.stage, "step": step, **row} for row in rows)
        write_jsonl(self.path, [*read_samples(self.path), *named])

    def compare(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of the final comparison, in place of those that are there."""
        if processes.first():
            write_jsonl(self.path, [*rows, *(row for row in read_samples(self.path) if "step" in row)])


def take_back(path: Path, stage: str, step: int) -> None:
    """Take a stage's rows after a step out of a file of samples; it is not written where there are none.

    Args:
        path: the file, which process 0 alone writes.
        stage: whose rows.
        step: the last one that is kept.

    Raises:
        RunError: as for ``read_samples``.
    """
    if not processes.first():
        return
    rows = read_samples(path)
    kept = [row for row in rows if row.get("stage") != stage or row["step"] <= step]
    if kept != rows:
        write_jsonl(path, kept)


def read_samples(path: Path) -> list[Row]:
    """Read all rows of a samples.jsonl; one that does not exist yet has none.

    Raises:
        RunError: when a line is not a JSON object; the message names file and line.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}:{number}: not a row of samples ({error}); put the line right to go on") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number}: expected a JSON object, found {line[:40]!r}; put the line right to go on")
        rows.append(row)
    return rows


def shown(judged: Judged, prompts: Sequence[EncodedPrompt]) -> list[Row]:
    """Pick the responses to a few prompts, always the same ones, with all their scores.

    Args:
        judged: what an evaluation measured.
        prompts: the prompts of that evaluation.

    Returns:
        Rows of ``prompt``, ``response`` and the scores; a score that is not finite is None.
    """
    every = measured(judged, prompts)
    return [every[i] for i in evenly(list(range(len(prompts))), SHOWN)]


def measured(judged: Judged, prompts: Sequence[EncodedPrompt]) -> list[Row]:
    """Make rows, as ``shown`` returns them, of the responses to all prompts of an evaluation."""
    return [
        {
            "prompt": prompt.text,
            "response": judged.texts[i],
            **{name: _finite(float(values[i])) for name, values in judged.scores.items()},
        }
        for i, prompt in enumerate(prompts)
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
