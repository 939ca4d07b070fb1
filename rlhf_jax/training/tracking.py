"""Rows of metrics for a service beside the run folder: Weights & Biases, MLflow, or any function on rows.

``metrics.jsonl`` stays the record. What a tracker fails at is said and never ends a run.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.files import write_json

Tracker = Callable[[dict[str, Any]], object]
"""``(row) -> None``; a row is one of metrics.jsonl: ``{"stage": "sft", "step": 3, "sft/loss": 2.5, ...}``."""

SERVICES = ("wandb", "mlflow")
"""The names that ``--tracker`` knows: each is that of a package, and of an extra of ours."""


class Tracking:
    """A tracker that cannot do harm: its first error is said, later ones are counted.

    Args:
        tracker: what is called with every row.
        name: what messages call it.
        finish: what is called once at the end.

    Example:
        >>> seen = []
        >>> tracking = Tracking(seen.append, "mine")
        >>> tracking({"stage": "sft", "step": 1, "sft/loss": 2.5})
        >>> seen
        [{'stage': 'sft', 'step': 1, 'sft/loss': 2.5}]
    """

    def __init__(self, tracker: Tracker, name: str, finish: Callable[[], object] | None = None):
        self._tracker, self._name, self._finish, self._failed = tracker, name, finish, 0

    def __call__(self, row: dict[str, Any]) -> None:
        """Hand over a copy of a row."""
        try:
            self._tracker(dict(row))
        except Exception as error:  # whatever a service or a function of the user's own raises
            self._failed += 1
            if self._failed == 1:
                self._say(f"{_shown(error)} (step {row['step']}); training goes on, and metrics.jsonl has every row")

    def close(self) -> None:
        """Let a service send what it still holds, and say how many rows it did not take."""
        try:
            if self._finish is not None:
                self._finish()
        except Exception as error:  # whatever a service raises
            self._say(f"{_shown(error)} at the end; metrics.jsonl has every row")
        if self._failed > 1:
            self._say(f"{self._failed} rows were not taken; metrics.jsonl has them")

    def _say(self, text: str) -> None:
        print(f"warning: tracker {self._name}: {text}", file=sys.stderr)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def start_service(name: str, folder: str | os.PathLike[str], stage: str, config: Mapping[str, Any]) -> Tracking:
    """Start a run at a service, or go on with the one that this stage of the run folder began.

    The service's own environment variables (``WANDB_PROJECT``, ``WANDB_MODE``, ``MLFLOW_TRACKING_URI``,
    ``MLFLOW_EXPERIMENT_NAME``) are obeyed.

    Args:
        name: ``wandb`` or ``mlflow``.
        folder: the run folder, whose name the run at the service gets.
        stage: the stage's name, for the same.
        config: the stage's fields, which become the run's hyperparameters.
    """
    title, memory = f"{Path(folder).absolute().name}-{stage}", _Memory(Path(folder), name, stage)
    return (_wandb if name == "wandb" else _mlflow)(title, memory, config)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Take the metrics out of a row, without its stage, its step and what was not finite.

    Example:
        >>> numbers({"stage": "sft", "step": 1, "sft/loss": 2.5, "sft/kl": None})
        {'sft/loss': 2.5}
    """
    return {name: value for name, value in row.items() if name not in ("stage", "step") and value is not None}


class _Memory:
    """The id of a stage's run at a service, in ``RUN/tracking.json``: a folder that is new begins a new run."""

    def __init__(self, folder: Path, service: str, stage: str):
        self.folder, self._path, self._key = folder, folder / "tracking.json", f"{service}/{stage}"
        self._all = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self.id: str = self._all.get(self._key, "")

    def keep(self, run: str) -> str:
        write_json(self._path, {**self._all, self._key: run})
        return run


def _wandb(title: str, memory: _Memory, config: Mapping[str, Any]) -> Tracking:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "rlhf_jax"),
        name=title,
        id=memory.id or memory.keep(uuid.uuid4().hex[:12]),
        resume="allow",
        dir=os.fspath(memory.folder),
        config=dict(config),
    )
    return Tracking(lambda row: run.log(numbers(row), step=row["step"]), "wandb", run.finish)


def _mlflow(title: str, memory: _Memory, config: Mapping[str, Any]) -> Tracking:
    import mlflow

    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "rlhf_jax"))
    if memory.id:
        mlflow.start_run(run_id=memory.id)
    else:
        memory.keep(mlflow.start_run(run_name=title).info.run_id)
        mlflow.log_params({name: str(value)[:500] for name, value in config.items()})
    return Tracking(lambda row: mlflow.log_metrics(numbers(row), step=row["step"]), "mlflow", mlflow.end_run)
