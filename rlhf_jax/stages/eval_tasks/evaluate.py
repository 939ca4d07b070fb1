"""``rlhf evaluate --tasks``: a policy's figures on tasks, and two policies' beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_jax import models
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_seed
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.eval_tasks.measure import Outcome, Tasks
from rlhf_jax.stages.eval_tasks.result import TaskResult, TaskResults, TasksBeside, differences_of, figures_of
from rlhf_jax.stages.eval_tasks.rows import TaskFile, read_tasks


def evaluate_tasks(
    run: str | Path, files: Sequence[str], *, on_bad_row: OnBadRow = "error", seed: int = 0
) -> TaskResults:
    """Measure a policy on tasks: perplexity of text, questions with choices, and exact answers.

    Args:
        run: ``RUN``, ``RUN:STAGE`` or a pretrained checkpoint.
        files: ``FILE`` or ``NAME=FILE`` each, rows of one kind in a file.
        on_bad_row: a bad row stops it, or is skipped and listed.
        seed: what the intervals' resampling depends on.

    Returns:
        The figures of every task, with intervals.

    Raises:
        DataError: on a bad row or file.
        RunError: when there is no policy.
    """
    check_seed("seed", seed)
    tasks = read_tasks(files, on_bad_row)
    what, outcomes = _measured(run, tasks)
    return _results(what, tasks, outcomes, seed)


def evaluate_tasks_beside(
    run: str | Path, other: str | Path, files: Sequence[str], *, on_bad_row: OnBadRow = "error", seed: int = 0
) -> TasksBeside:
    """Measure two policies on the same tasks, and the differences with paired intervals.

    Args:
        run: the one policy.
        other: the other one.
        files: as for ``evaluate_tasks``.
        on_bad_row: a bad row stops it, or is skipped and listed.
        seed: what the intervals' resampling depends on.

    Returns:
        Both, and by how much the first one's figures are above the second's.

    Raises:
        DataError: on a bad row or file.
        RunError: when a policy is not there.
    """
    check_seed("seed", seed)
    tasks = read_tasks(files, on_bad_row)
    (one, first), (two, second) = _measured(run, tasks), _measured(other, tasks)
    return TasksBeside(
        first=_results(one, tasks, first, seed),
        second=_results(two, tasks, second, seed),
        differences={name: differences_of(first[name], second[name], seed=seed) for name in first},
    )


def _measured(run: str | Path, tasks: Sequence[TaskFile]) -> tuple[str, dict[str, Outcome]]:
    policy = Policy.load(run)
    measure = Tasks(tasks, models.build(policy.config), policy.tokenizer)
    return f"the {policy.stage} policy of {run}", measure(policy.params)


def _results(what: str, tasks: Sequence[TaskFile], outcomes: dict[str, Outcome], seed: int) -> TaskResults:
    return TaskResults(
        what=what,
        tasks=tuple(
            TaskResult(
                name=task.name,
                kind=task.kind,
                n=len(task.rows),
                figures=figures_of(outcomes[task.name], seed=seed),
                left_out=task.left_out,
            )
            for task in tasks
        ),
    )
