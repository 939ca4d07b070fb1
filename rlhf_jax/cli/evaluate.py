"""``rlhf evaluate``: a reward model, an implicit reward or a judge on anybody's pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from rlhf_jax.cli import tables
from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_seed
from rlhf_jax.files import write_json
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.evaluation.choices import ChoiceQuality
    from rlhf_jax.stages.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Options of evaluating."""

    run: Positional[str]
    """What is evaluated: a run folder with a reward model or an ensemble; `RUN:preference`, the implicit reward of a
    policy of preference optimisation (`RUN` alone where there is no reward model); a sequence classifier with one label
    as a Hugging Face folder; or a judge, FILE.py:function of (prompts, responses)."""
    data: str
    """Pairs in any layout, or best-of-K rows: a file, a folder or `hf:org/name`. RewardBench 1 and 2 are recognised."""
    by: str = ""
    """The field whose values name the subsets, with dots between the names of nested ones; a benchmark's own by
    default."""
    json: Path | None = None
    """The .json file to write: accuracy, accuracy_ci, n, ece, by, and the other figures."""
    golden: str = ""
    """Items whose answer is known, in any of these layouts: agreement with them is a figure of its own."""
    split: str = ""
    """The split of --data, where it has several; `test`, `filtered`, `validation` or `train` by default."""
    combine: Literal["mean", "min", "lower_bound"] = "mean"
    """What an ensemble of reward models says: mean, the worst case, or mean - k * std."""
    k: float = 1.0
    """Standard deviations that `--combine lower_bound` takes off."""
    templated: bool = False
    """The texts hold the chat template already applied: special tokens that they spell are special."""
    on_bad_row: OnBadRow = "error"
    """A bad row, or one that is too long for the model, stops the command, or is skipped and listed."""
    seed: int = 0
    """What the intervals' resampling depends on."""


def evaluate(argv: list[str]) -> None:
    """Print how often scores pick what people picked."""
    o = parse(EvaluateOptions, "evaluate", argv)
    try:
        check_seed("--seed", o.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if o.json is not None:
        check_file(o.json, "--json")
    from rlhf_jax.rewards import EnsembleConfig
    from rlhf_jax.stages.evaluate import evaluate as measure

    found = measure(
        o.run,
        o.data,
        by=o.by,
        golden=o.golden,
        split=o.split,
        on_bad_row=o.on_bad_row,
        templated=o.templated,
        ensemble=EnsembleConfig(combine=o.combine, k=o.k),
        seed=o.seed,
    )
    show(found)
    _write(o.json, found.to_json())


def _write(to: Path | None, found: Mapping[str, Any]) -> None:
    """Write the figures, where somebody asked for a file."""
    if to is None:
        return
    write_json(to, found)
    print(to)


def show(found: Evaluation) -> None:
    """Print an evaluation as a table, and below it what else there is to know."""
    from rich.table import Table

    table = Table(title=f"{found.what} on {found.data}")
    table.add_column("rows")
    for name in ("n", "accuracy", "95%", "chance", "ECE", "ties"):
        table.add_column(name, justify="right")
    table.add_row("all", *_cells(found.quality), style="bold")
    for name, quality in found.by.items():
        table.add_row(name, *_cells(quality))
    console = tables.console(100)
    console.print(table)
    console.print("\n".join(_lines(found)), highlight=False, markup=False, soft_wrap=True)


def _cells(quality: ChoiceQuality) -> list[str]:
    low_high = quality.accuracy_ci
    return [
        f"{quality.n:,}",
        percent(quality.accuracy),
        "-" if low_high is None else f"{low_high[0]:.1%} to {low_high[1]:.1%}",
        percent(quality.chance),
        "-" if quality.ece is None else f"{quality.ece:.3f}",
        f"{quality.ties:,}",
    ]


def percent(value: float | None) -> str:
    """Write a share for a table; a dash where there is none.

    Example:
        >>> percent(0.625), percent(None)
        ('62.5%', '-')
    """
    return "-" if value is None else f"{value:.1%}"


def _lines(found: Evaluation) -> list[str]:
    quality, lines = found.quality, []
    if quality.length_controlled is not None and quality.length_controlled_ci is not None:
        low, high = quality.length_controlled_ci
        lines.append(f"at equal length: {quality.length_controlled:.1%}, 95% {low:.1%} to {high:.1%}")
    if quality.even_scores:
        lines.append(f"equal scores: {quality.even_scores:,} rows, which count half")
    if quality.ties and quality.ties_near is not None:
        lines.append(
            f"people tie in {quality.ties:,} rows, which are no part of the accuracy; in {quality.ties_near:.1%} of "
            "them the model gives neither side more than 3 in 5"
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
        golden = found.golden.quality
        missed = f"; missed: {', '.join(found.golden.missed[:5])}" if found.golden.missed else ""
        more = f" and {len(found.golden.missed) - 5} more" if len(found.golden.missed) > 5 else ""
        lines.append(f"golden items: agrees with {percent(golden.accuracy)} of {golden.n:,}{missed}{more}")
    return lines
