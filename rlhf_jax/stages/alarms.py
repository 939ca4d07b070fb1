"""Alarms while a stage is training: what ``evaluation.alarms`` finds in the log so far, said on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax import evaluation, processes
from rlhf_jax.training import read_metrics


class Alarms:
    """Alarms of one stage, each of which is printed once, when it is first raised.

    Args:
        directory: the run folder, whose metrics.jsonl is read.
        stage: the stage whose rows are looked at.
        judge: the judge whose score is held against the proxy.
        max_kl: nats a response above which the KL is an alarm; the usual limit where the stage has none.
        from_step: the first step at which a reward that has not risen is an alarm.
    """

    def __init__(
        self,
        directory: Path,
        stage: str,
        judge: str = "gold",
        max_kl: float | None = None,
        from_step: int = 20,
    ):
        self._judge, self._max_kl, self._from_step = judge, max_kl, from_step
        self._path, self._stage, self._said = directory / "metrics.jsonl", stage, set[str]()

    def report(self) -> list[evaluation.Alarm]:
        """Say what is new, and return all that the log holds; the first process alone reads what it has written."""
        if not processes.first():
            return []
        rows = read_metrics(self._path, self._stage)
        found = evaluation.alarms(
            rows, stage=self._stage, judge=self._judge, max_kl=self._max_kl, from_step=self._from_step
        )
        self.say(found)
        return found

    def say(self, found: Sequence[evaluation.Alarm]) -> None:
        """Print those of a kind that was not printed before."""
        for alarm in found:
            if alarm.name not in self._said:
                print(f"{self._stage}: warning: {alarm.message}", file=sys.stderr)
                self._said.add(alarm.name)
