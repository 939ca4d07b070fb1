"""The tables of ``rlhf evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlhf_jax.cli import tables

if TYPE_CHECKING:
    from rlhf_jax.evaluation.choices import ChoiceQuality
    from rlhf_jax.evaluation.win_rates import Difference, WinRate
    from rlhf_jax.stages.evaluate import Beside, Evaluation, WinRates

_SHOWN = 5  # golden items that are named


def show(found: Evaluation) -> None:
    """Print an evaluation as a table, and below it what else there is to know."""
    table = new_table(f"{found.what} on {found.data}", "n", "accuracy", "95%", "chance", "ECE", "ties")
    table.add_row("all", *_cells(found.quality), style="bold")
    for name, quality in found.by.items():
        table.add_row(name, *_cells(quality))
    print_table(table, _lines(found))


def show_beside(found: Beside) -> None:
    """Print two evaluations, and by how much one is right more often."""
    show(found.first)
    show(found.second)
    table = new_table("the first less the second, on the same rows", "n", "difference in accuracy", "95%")
    table.add_row("all", *_difference(found.difference), style="bold")
    for name, each in found.by.items():
        table.add_row(name, *_difference(each))
    low, high = found.difference.difference_ci
    said = "the first is right more often" if low > 0 else "the second is right more often" if high < 0 else ""
    print_table(table, [said or "no difference is shown: the interval holds 0"])


def show_win_rates(found: WinRates) -> None:
    """Print how often one policy wins against another."""
    title = f"{found.first} against {found.second} on {found.data}"
    table = new_table(title, "n", "win rate", "95%", "at equal length", "95%")
    table.add_row("all", *_rate(found.rate), style="bold")
    for name, rate in found.by.items():
        table.add_row(name, *_rate(rate))
    lines = [
        f"scored by {found.judge}: {found.scores[0]:.4g} and {found.scores[1]:.4g} in the mean",
        f"characters of an answer: {found.lengths[0]:.1f} and {found.lengths[1]:.1f} in the mean",
    ]
    print_table(table, lines)


def percent(value: float | None) -> str:
    """Write a share for a table; a dash where there is none.

    Example:
        >>> percent(0.625), percent(None)
        ('62.5%', '-')
    """
    return "-" if value is None else f"{value:.1%}"


def between(interval: tuple[float, float] | None, form: str = ".1%") -> str:
    """Write an interval for a table; a dash where there is none.

    Example:
        >>> between((0.25, 0.5)), between(None)
        ('25.0% to 50.0%', '-')
    """
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def new_table(title: str, *columns: str) -> Any:
    """Make a table of figures: the rows they are of, and a column for each.

    Args:
        title: what stands above it.
        columns: their names.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    table.add_column("rows")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def print_table(table: Any, lines: list[str]) -> None:
    """Print a table, and below it lines of text.

    Args:
        table: from ``new_table``.
        lines: the lines.
    """
    console = tables.console(100)
    console.print(table)
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _cells(quality: ChoiceQuality) -> list[str]:
    ece = "-" if quality.ece is None else f"{quality.ece:.3f}"
    interval = between(quality.accuracy_ci)
    return [f"{quality.n:,}", percent(quality.accuracy), interval, percent(quality.chance), ece, f"{quality.ties:,}"]


def _difference(each: Difference) -> list[str]:
    return [f"{each.n:,}", f"{each.difference:+.1%}", between(each.difference_ci, "+.1%")]


def _rate(rate: WinRate) -> list[str]:
    equal = between(rate.length_controlled_ci)
    return [f"{rate.n:,}", percent(rate.win_rate), between(rate.win_rate_ci), percent(rate.length_controlled), equal]


def _lines(found: Evaluation) -> list[str]:
    quality, lines = found.quality, []
    if quality.length_controlled is not None:
        at_equal = f"{percent(quality.length_controlled)}, 95% {between(quality.length_controlled_ci)}"
        lines.append(f"accuracy at equal length: {at_equal}")
    if quality.even_scores:
        lines.append(f"equal scores: {quality.even_scores:,} rows, which count half")
    if quality.ties:
        lines.append(
            f"people tie in {quality.ties:,} rows, which are no part of the accuracy; in {percent(quality.ties_near)} "
            "of them the model gives neither side more than 3 in 5"
        )
    if found.worst:
        worst = found.by[found.worst]
        lines.append(f"worst subset: {found.worst}, {percent(worst.accuracy)} of {worst.n:,}")
    if found.benchmark is not None:
        whole = "" if found.benchmark.score is None else f"; {100 * found.benchmark.score:.1f} in all"
        each = ", ".join(f"{name} {100 * score:.1f}" for name, score in found.benchmark.scores.items())
        lines.append(f"{found.benchmark.name}: {each}{whole}")
    if found.members is not None:
        each = ", ".join(percent(accuracy) for accuracy in found.members.accuracies)
        lines.append(f"members: {each}; they disagree by {found.members.disagreement:.3g} in the mean")
    if found.golden is not None:
        golden, missed = found.golden.quality, found.golden.missed
        more = f" and {len(missed) - _SHOWN} more" if len(missed) > _SHOWN else ""
        named = f"; missed: {', '.join(missed[:_SHOWN])}{more}" if missed else ""
        lines.append(f"golden items: agrees with {percent(golden.accuracy)} of {golden.n:,}{named}")
    if found.left_out:
        lines.append(f"left out: {found.left_out:,} bad rows")
    return lines
