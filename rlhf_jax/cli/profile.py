"""``rlhf profile``: where the time of a stage goes, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.cli import tables
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.cli.stage_options import asked, sizes
from rlhf_jax.targets import check_folder

if TYPE_CHECKING:
    from rlhf_jax.stages.profile import Profile

STAGES = ("sft", "reward", "preference", "ppo", "group")
_USAGE = (
    "rlhf profile STAGE [its options], or rlhf profile RUN:STAGE for the config that a run folder holds; "
    f"stages are {', '.join(STAGES)}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Options of the profile."""

    repeats: int = 3
    """Steps or iterations that are measured, after two that compile; the shortest counts."""
    trace: Path | None = None
    """A folder for a trace of one more step: open its perfetto_trace.json.gz at ui.perfetto.dev."""
    json: bool = False
    """Print one JSON object in place of the table."""
    random: Path | None = None
    """Sizes of models with random weights, where the config names no folder that is there: a .json file with fields of
    ModelConfig, or of a Hugging Face config.json. By default the quickstart's model."""


def profile(argv: list[str]) -> None:
    """Measure the phases of a stage."""
    stage, options, config = asked("profile", _USAGE, ProfileOptions(), argv)
    if options.trace is not None:
        check_folder(options.trace, "--trace")
    if options.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, found {options.repeats}")
    from rlhf_jax.stages.profile import profile_online, profile_packed

    how = {"random": sizes(options.random), "repeats": options.repeats, "trace": options.trace}
    run: Any = profile_online if stage in ("ppo", "group") else profile_packed
    found = run(stage, config, **how)
    print(json.dumps(found.to_json(), default=str)) if options.json else show(found)


def show(found: Profile) -> None:
    """Print a profile as a table and a few lines below it."""
    from rich.table import Table

    # Small models on a CPU do thousandths of a TFLOP a second.
    most = found.limits
    unit, letter = (1e12, "T") if most.flops * found.devices > 1e13 else (1e9, "G")
    table = Table(title=f"{found.stage} on {found.devices} x {found.device}", caption=found.work)
    table.add_column("phase")
    for name in ("seconds", "share", "tokens/s", f"{letter}FLOP/s", "of the limit"):
        table.add_column(name, justify="right")
    for phase in found.phases:
        table.add_row(
            phase.name,
            f"{phase.seconds:.4g}",
            f"{phase.seconds / found.seconds:.0%}",
            f"{phase.tokens / phase.seconds:,.0f}" if phase.tokens else "",
            f"{phase.flops / phase.seconds / unit:,.3g}" if phase.flops else "",
            f"{phase.fraction:.0%}" if phase.least else "",
        )
    table.add_row("all", f"{found.seconds:.4g}", "", "", "", "", style="bold")
    console = tables.console(120)
    console.print(table)
    lines = [
        f"limit of a device: {most.flops / unit:,.4g} {letter}FLOP/s, {most.bandwidth / 1e9:.4g} GB/s ({most.source})",
        f"compilation: {found.compile_seconds:.1f} s, {found.programs} programs, {found.read_back} of them read back",
        f"peak memory of the {found.peak_of}: {found.peak_bytes / 2**20:,.0f} MiB",
        f"kernels: {', '.join(f'{name}: {value}' for name, value in found.kernels.items())}",
        *([f"trace: {found.trace} (perfetto_trace.json.gz, for ui.perfetto.dev)"] if found.trace else []),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
