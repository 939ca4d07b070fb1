"""``rlhf plan``: what a stage takes on hardware that need not be there, by arithmetic."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.cli import tables
from rlhf_jax.cli.aot import say_compiling
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.cli.stage_options import asked, sizes_for
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.parallel.hardware import Hardware
    from rlhf_jax.stages.plan import Pair, Plan

_USAGE = (
    "rlhf plan STAGE --hardware h100x8 [its options], or rlhf plan RUN:STAGE or FILE.py for a config of yours; "
    "stages are sft, reward, preference, ppo, group"
)
_GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of a plan."""

    hardware: str = ""
    """GPUs of a node, h100x8, h200x8, a100x8 or fewer, h100x1; or a TPU slice: v5e-256, v6e-256 (chips),
    v5p-128 (cores, two a chip), or a grid, v5e:4x4."""
    random: Path | None = None
    """Sizes of the models: a .json file with fields of ModelConfig, or of a Hugging Face config.json. By default
    those of what `--init` or `--policy` names, or of the quickstart's model where that is not there. Weights are never
    made."""
    steps: int = 0
    """Updates (ppo, group: iterations) of the run; 0: as the config says, where it does."""
    tokens: int = 0
    """sft, reward, preference: tokens to train on, over all epochs together, in place of --steps."""
    efficiency: float = 1.0
    """Part of the roofline that is reached; 1 gives the least time. What a machine of yours reaches `rlhf profile`
    says."""
    price: float | None = None
    """US dollars an hour for one device; without it no cost is printed."""
    aot: bool = False
    """Compile the programs as well, as `rlhf aot` does, and print them beside the plan: TPU slices only, with
    libtpu."""
    aot_json: Path | None = None
    """Take the figures that `rlhf aot --json FILE` wrote in place of compiling again."""
    json: Path | None = None
    """A file for the figures."""


def plan(argv: list[str]) -> None:
    """Plan a stage on hardware, and print memory, time, hours and cost."""
    stage, options, config = asked("plan", _USAGE, PlanOptions(), argv)
    if options.json is not None:
        check_file(options.json, "--json")
    if not options.hardware:
        raise UsageError(f"--hardware is missing; {_USAGE}")
    from rlhf_jax.parallel.hardware import hardware
    from rlhf_jax.stages.plan import Run, beside, chosen_mesh
    from rlhf_jax.stages.plan import plan as make_plan

    try:
        wanted = hardware(options.hardware)
        run = Run(steps=options.steps, tokens=options.tokens, efficiency=options.efficiency, price=options.price)
        mesh = chosen_mesh(config.mesh, wanted.devices)
        said = mesh == config.mesh
        config = dataclasses.replace(config, mesh=mesh)
        random = sizes_for(config, options.random)
        found = make_plan(stage, config, wanted, sizes=random, run=run)
        ahead = _compiled(options, stage, config, wanted, random)
        pairs = () if ahead is None else beside(found, ahead)
    except ValueError as error:
        raise UsageError(str(error)) from error
    show(found, pairs, mesh_asked=said)
    if options.json is not None:
        written = {**found.to_json(), "beside": [{**pair._asdict(), "difference": pair.difference} for pair in pairs]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


def _compiled(options: PlanOptions, stage: str, config: Any, wanted: Hardware, random: Any) -> Mapping[str, Any] | None:
    """Get the figures of ``rlhf aot``: from a file, by compiling, or none where nobody asks for them."""
    if options.aot_json is not None:
        try:
            found = json.loads(options.aot_json.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"--aot-json {options.aot_json}: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("programs"), list):
            raise UsageError(f"--aot-json {options.aot_json}: expected what `rlhf aot --json` wrote")
        return found
    if not options.aot:
        return None
    if wanted.topology is None:
        raise UsageError(f"--aot compiles for TPU slices, and {wanted.name} is none: leave it out")
    from rlhf_jax.stages.ahead import compile_for

    return compile_for(wanted.topology, stage, config, sizes=random, tell=say_compiling).to_json()


def show(found: Plan, pairs: Sequence[Pair] = (), *, mesh_asked: bool = True) -> None:
    """Print a plan as tables, and below them what it comes to."""
    from rich.table import Table

    hardware, fullest = found.hardware, found.fullest
    mesh = tables.sizes_of(found.mesh)
    memory = Table(title="memory by part, where it is most")
    memory.add_column(f"a device in {fullest.name}")
    memory.add_column("GiB", justify="right")
    for part, size in fullest.memory.items():
        memory.add_row(part, f"{size / _GIB:.3f}")
    memory.add_row("all", f"{fullest.total / _GIB:.3f}", style="bold")
    time = Table(title=f"phases of one {found.unit}, least seconds")
    time.add_column("phase")
    for name in ("GiB", "compute", "memory", "interconnect", "least", "bound by", "GiB sent"):
        time.add_column(name, justify="right")
    for phase in found.phases:
        time.add_row(
            phase.name,
            f"{phase.total / _GIB:.2f}",
            *(f"{seconds:.4g}" for seconds in (*phase.least.values(), phase.seconds)),
            phase.bound,
            f"{sum(phase.sent.values()) / _GIB:.3g}",
        )
    console = tables.console()
    on = f"{hardware.name}, {hardware.devices} x {hardware.kind}"
    console.print(f"{found.stage}, {found.parameters:,} parameters, on {on}: {mesh}", highlight=False, style="bold")
    console.print(memory)
    console.print(time)
    if pairs:
        console.print(_beside(pairs))
        console.print("compiled: no FLOPs that are computed again are in its seconds; decoding is of one window")
    console.print("\n".join(_lines(found, mesh_asked)), highlight=False, markup=False, soft_wrap=True)


def _beside(pairs: Sequence[Pair]) -> Any:
    from rich.table import Table

    table = Table(title="the plan beside what was compiled")
    for name in ("program", "figure"):
        table.add_column(name)
    for name in ("planned", "compiled", "difference"):
        table.add_column(name, justify="right")
    for pair in pairs:
        in_bytes = pair.figure.startswith("bytes")
        said = [f"{x / _GIB:.3f} GiB" if in_bytes else f"{x:.4g}" for x in (pair.planned, pair.compiled)]
        table.add_row(
            pair.program, pair.figure, *said, "" if pair.difference is None else f"{100 * pair.difference:+.0f}%"
        )
    return table


def _lines(found: Plan, mesh_asked: bool) -> list[str]:
    hardware, limits, run = found.hardware, found.hardware.limits, found.run
    fits = "fits" if found.fits else "DOES NOT FIT"
    rate = f"{found.tokens / found.seconds:,.0f} tokens/s"
    if found.responses:
        rate = f"{rate} written, {found.responses / found.seconds:,.4g} responses/s"
    lines = [
        f"an {found.unit}: {found.work}",
        f"{fits}: {found.fullest.total / _GIB:.2f} GiB a device of {hardware.memory / _GIB:.2f}; models and optimisers "
        f"{found.held / _GIB:.2f}",
        f"at {run.efficiency:.0%} of the roofline: {found.seconds:.4g} s an {found.unit}, {rate}",
    ]
    if found.hours is None or found.device_hours is None:
        lines.append("hours: the data decide how many updates there are; say it with --steps or --tokens")
    else:
        lines.append(
            f"{found.steps:,} {found.unit}s: {found.hours:,.4g} hours, {found.device_hours:,.4g} device-hours"
            + ("" if found.cost is None else f", {found.cost:,.2f} USD at {run.price:g} a device-hour")
        )
    if not mesh_asked:
        sizes = ",".join(f"{name}={size}" for name, size in found.mesh.items())
        lines.append(
            f"mesh: none was asked for, so fsdp takes all {hardware.devices} devices; training does with --mesh {sizes}"
        )
    if not found.fits:
        lines.append(
            "what takes less: --remat block, more --micro-batches, --mesh with more fsdp or tensor, --lora.rank 16, "
            "shorter rows or fewer prompts, or more devices; rlhf aot --search looks for what fits a TPU slice"
        )
    lines += [f"note: {note}" for note in found.notes]
    return [
        *lines,
        f"a device: {limits.flops / 1e12:,.0f} TFLOP/s, {limits.bandwidth / 1e9:,.0f} GB/s of memory, "
        f"{hardware.links / 1e9:,.0f} GB/s sent to others ({limits.source})",
        "this is arithmetic, and nothing was run: matrix products, bytes of memory and bytes sent, each at its limit; "
        "latency, the host, evaluations, checkpoints and compilation are not counted",
    ]
