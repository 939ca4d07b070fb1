"""RUN/heldout_samples.jsonl: all responses of each stage's first and latest evaluation, to see what changed meanwhile.

A row is ``stage``, ``step``, ``prompt``, ``response`` and the scores, as in samples.jsonl, which keeps a few of every
evaluation. The file is as large as two evaluations a stage, however long a run is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax import processes
from rlhf_jax.data import write_jsonl
from rlhf_jax.stages.samples import Row, read_samples, take_back

FILE = "heldout_samples.jsonl"
_NAMES = ("stage", "step", "prompt", "response")  # whatever else a row has, is a score


class FirstAndLatest:
    """A stage's part of RUN/heldout_samples.jsonl; the file is replaced in one step.

    Args:
        directory: the run folder.
        stage: names the rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = FirstAndLatest(Path(folder), "ppo")
        ...     for step, response in ((0, "sat."), (10, "ran."), (20, "purred.")):
        ...         log.add(step, [{"prompt": "The cat", "response": response, "proxy": 0.1 * step}])
        ...     log.compared()
        (20, [{'prompt': 'The cat', 'before': 'sat.', 'after': 'purred.', 'proxy_before': 0.0, 'proxy_after': 2.0}])
    """

    def __init__(self, directory: Path, stage: str):
        self.path, self.stage = directory / FILE, stage

    def rewind(self, step: int) -> None:
        """Take back evaluations after a step, so that a resumed run is compared with its own first one."""
        take_back(self.path, self.stage, step)

    def add(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep an evaluation: as the first where there is none before it, and else as the latest."""
        if not processes.first():
            return
        held = read_samples(self.path)
        first = min((row["step"] for row in held if row["stage"] == self.stage), default=step)
        kept = [row for row in held if row["stage"] != self.stage or (row["step"] == first and first < step)]
        write_jsonl(self.path, [*kept, *({"stage": self.stage, "step": step, **row} for row in rows)])

    def compared(self) -> tuple[int, list[Row]]:
        """Put the first evaluation beside the latest, as ``first_and_latest`` does."""
        return first_and_latest(read_samples(self.path), self.stage)


def first_and_latest(rows: Sequence[Mapping[str, Any]], stage: str) -> tuple[int, list[Row]]:
    """Put a stage's first evaluation beside its latest.

    Args:
        rows: those of heldout_samples.jsonl.
        stage: whose.

    Returns:
        The step of the latest, and rows as those of the final comparison: ``prompt``, ``before``, ``after``, and
        ``NAME_before`` and ``NAME_after`` of every score. There are none where there was one evaluation only, or
        the two asked different prompts.
    """
    own = [row for row in rows if row.get("stage") == stage]
    steps = sorted({row["step"] for row in own})
    if len(steps) < 2:
        return (steps or [0])[0], []
    before, after = ([row for row in own if row["step"] == step] for step in (steps[0], steps[-1]))
    if [row["prompt"] for row in before] != [row["prompt"] for row in after]:
        return steps[-1], []
    return steps[-1], [
        {
            "prompt": old["prompt"],
            "before": old["response"],
            "after": new["response"],
            **{
                f"{name}_{when}": row[name]
                for name in old
                if name not in _NAMES and name in new
                for when, row in (("before", old), ("after", new))
            },
        }
        for old, new in zip(before, after, strict=True)
    ]
