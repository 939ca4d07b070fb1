"""The tables of ``rlhf evaluate --tasks``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_jax.cli.evaluations import between, new_table, print_table
from rlhf_jax.stages.eval_tasks.result import TaskResults, TasksBeside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlhf_jax.evaluation.task_figures import Figure

# Figures that are no shares: how each is written.
_NUMBERS = {"perplexity": ".3f", "word_perplexity": ".1f", "bits_per_byte": ".4f"}


def show(found: TaskResults | TasksBeside) -> None:
    """Print a policy's figures on tasks; of two policies both, and the differences."""
    if isinstance(found, TaskResults):
        _show_one(found)
        return
    _show_one(found.first)
    _show_one(found.second)
    table = new_table("the first less the second, on the same rows", "figure", "difference", "95%")
    for task, figures in found.differences.items():
        _add(table, task, "", figures, sign="+")
    print_table(table, ["an interval that holds 0 shows no difference"])


def _show_one(found: TaskResults) -> None:
    table = new_table(found.what, "n", "figure", "value", "95%")
    for task in found.tasks:
        _add(table, task.name, f"{task.n:,}", task.figures)
    left_out = [f"{task.name}: left out {task.left_out:,} bad rows" for task in found.tasks if task.left_out]
    print_table(table, left_out)


def _add(table: Any, name: str, n: str, figures: Mapping[str, Figure], sign: str = "") -> None:
    for place, (figure, each) in enumerate(figures.items()):
        form = sign + _NUMBERS.get(figure, ".1%")
        head = [name if not place else "", *([(n if not place else "")] if n else [])]
        table.add_row(*head, figure, f"{each.value:{form}}", between(each.ci, form))
