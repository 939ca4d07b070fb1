"""What ``rlhf evaluate judge:...`` prints: the audit of a judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_jax.cli.evaluations import between, new_table, percent, print_table

if TYPE_CHECKING:
    from rlhf_jax.evaluation import JudgeQuality
    from rlhf_jax.stages.audit import Audit, Panel

_NAMED = 20  # raters in the table


def show(found: Audit) -> None:
    """Print an audit as a table, and below it what sways the judge."""
    table = new_table(f"{found.what} on {found.data}", "n", "accuracy", "95%", "abstained", "ECE", "Brier")
    table.add_row("all", *_cells(found.quality), style="bold")
    for name, quality in found.by.items():
        table.add_row(name, *_cells(quality))
    print_table(table, lines(found.quality))
    if found.panel is not None:
        _show_panel(found.panel)


def lines(quality: JudgeQuality) -> list[str]:
    """Say in sentences what sways the judge.

    Args:
        quality: the figures.

    Returns:
        A line for each thing that was measured.
    """
    said = []
    if quality.brier_ci is not None and quality.brier_even is not None and quality.brier_ci[0] > quality.brier_even:
        said.append(
            f"its votes are further from people's than one half is: Brier {quality.brier:.3f} against "
            f"{quality.brier_even:.3f}"
        )
    if quality.even:
        said.append(f"even votes: {quality.even:,}, which count half")
    if quality.longer_excess is not None:
        said.append(
            f"length: it prefers the longer response in {percent(quality.longer)}, people in "
            f"{percent(quality.longer_people)}; difference {quality.longer_excess:+.1%}, 95% "
            f"{between(quality.longer_excess_ci, '+.1%')}"
        )
    if quality.at_equal_length is not None:
        equal = f"{percent(quality.at_equal_length)}, 95% {between(quality.at_equal_length_ci)}"
        said.append(f"accuracy at equal length: {equal}")
    if quality.first is not None:
        said.append(
            f"place: {percent(quality.first)} of the vote goes to what is shown first, 95% "
            f"{between(quality.first_ci)}; both orders choose the same in {percent(quality.consistent)}; one order "
            f"alone is right in {percent(quality.one_order)}"
        )
    return said


def _cells(quality: JudgeQuality) -> list[str]:
    ece, brier = ("-" if x is None else f"{x:.3f}" for x in (quality.ece, quality.brier))
    accuracy = [percent(quality.accuracy), between(quality.accuracy_ci)]
    return [f"{quality.n:,}", *accuracy, f"{quality.abstained:.1%}", ece, brier]


def _show_panel(panel: Panel) -> None:
    """Print the judge beside the people."""
    table = new_table(
        "the judge as one rater among people", "n", "agrees with the others", "right (estimated)", "weight"
    )
    columns = zip(panel.raters, panel.n, panel.others, panel.right, panel.weight, strict=True)
    every = list(columns)
    for name, n, others, right, weight in [*every[:-1][:_NAMED], every[-1]]:
        table.add_row(name, f"{n:,}", percent(others), percent(right), "-" if weight is None else f"{weight:.2f}")
    alpha = "-" if panel.alpha is None else f"{panel.alpha:.2f}"
    hidden = max(0, len(every) - 1 - _NAMED)
    print_table(table, [*([f"and {hidden} more people"] if hidden else []), f"Krippendorff's alpha: {alpha}"])
