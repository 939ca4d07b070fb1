"""What a policy can do besides what it is trained for: perplexity of text, questions with choices, exact answers."""

from rlhf_jax.stages.eval_tasks.evaluate import evaluate_tasks, evaluate_tasks_beside
from rlhf_jax.stages.eval_tasks.measure import Outcome, Tasks
from rlhf_jax.stages.eval_tasks.result import TaskResult, TaskResults, TasksBeside, before_and_after, logged
from rlhf_jax.stages.eval_tasks.rows import TaskFile, TaskRow, read_tasks, task_row

__all__ = [
    "Outcome",
    "TaskFile",
    "TaskResult",
    "TaskResults",
    "TaskRow",
    "Tasks",
    "TasksBeside",
    "before_and_after",
    "evaluate_tasks",
    "evaluate_tasks_beside",
    "logged",
    "read_tasks",
    "task_row",
]
