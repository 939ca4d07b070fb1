"""What a model makes of tasks, frozen, and as JSON; alone, and beside another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.evaluation.task_figures import Figure, task_difference, task_figure
from rlhf_jax.stages.eval_tasks.measure import Outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """A model's figures on one task."""

    name: str
    """The task's."""
    kind: str
    """``perplexity``, ``multiple choice`` or ``exact match``; for a task of lm-evaluation-harness what it says."""
    n: int
    """Documents or questions."""
    figures: Mapping[str, Figure]
    """By name: ``perplexity``, ``word_perplexity`` and ``bits_per_byte``; ``accuracy`` and ``accuracy_by_length``; or
    ``exact_match``."""
    left_out: int = 0
    """Bad rows that were skipped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResults:
    """A model's figures on every task."""

    what: str
    """What was evaluated."""
    tasks: tuple[TaskResult, ...]
    """In the order in which they were named."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values, tasks by name."""
        return {"what": self.what, "tasks": {task.name: _task_json(task) for task in self.tasks}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksBeside:
    """Two models on the same tasks."""

    first: TaskResults
    """The one."""
    second: TaskResults
    """The other."""
    differences: Mapping[str, Mapping[str, Figure]]
    """By task and figure: the first less the second, with paired intervals."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values: the first one's, ``against``, the other one's, and the differences."""
        return {
            **self.first.to_json(),
            "against": self.second.to_json(),
            "differences": {task: _figures_json(figures) for task, figures in self.differences.items()},
        }


def figures_of(outcome: Outcome, *, seed: int = 0) -> dict[str, Figure]:
    """Compute the figures of an outcome with their intervals.

    Args:
        outcome: what a model makes of a task.
        seed: what the resampling depends on.
    """
    return {name: task_figure(parts, outcome.groups, seed=seed) for name, parts in outcome.parts.items()}


def differences_of(first: Outcome, second: Outcome, *, seed: int = 0) -> dict[str, Figure]:
    """Compute by how much the first outcome's figures are above the second's.

    Args:
        first: what the one model makes of a task.
        second: what the other makes of the same rows.
        seed: what the resampling depends on.
    """
    return {
        name: task_difference(parts, second.parts[name], first.groups, seed=seed) for name, parts in first.parts.items()
    }


def logged(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Name figures as an evaluation's row of the log has them, ``tasks/TASK/FIGURE``.

    Args:
        outcomes: what a model makes of each task.
    """
    return {
        f"tasks/{task}/{name}": value for task, found in outcomes.items() for name, value in found.figures().items()
    }


def before_and_after(before: Mapping[str, Outcome], after: Mapping[str, Outcome]) -> dict[str, Any]:
    """Put what training did to the figures of every task into a summary.

    Args:
        before: what the policy that was started from makes of each task.
        after: the same of the trained one.

    Returns:
        By task ``kind``, ``n`` and for every figure ``FIGURE_before``, ``FIGURE_after`` and ``FIGURE_change``, the
        latter with its paired interval, ``FIGURE_change_ci``.
    """
    found: dict[str, Any] = {}
    for task, old in before.items():
        new, changes = after[task], differences_of(after[task], old)
        found[task] = {"kind": old.kind, "n": len(old.groups)}
        for name, change in changes.items():
            found[task] |= {
                f"{name}_before": float(old.parts[name].figure()),
                f"{name}_after": float(new.parts[name].figure()),
                f"{name}_change": change.value,
                f"{name}_change_ci": list(change.ci),
            }
    return found


def _task_json(task: TaskResult) -> dict[str, Any]:
    return {"kind": task.kind, "n": task.n, "left_out": task.left_out, **_figures_json(task.figures)}


def _figures_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {key: value for name, figure in figures.items() for key, value in _named(name, figure).items()}


def _named(name: str, figure: Figure) -> dict[str, Any]:
    return {name: figure.value, f"{name}_ci": list(figure.ci)}
