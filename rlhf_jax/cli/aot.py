"""``rlhf aot``: the programs of a stage, compiled for a TPU topology on any machine, and what they take."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.cli import tables
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.cli.stage_options import asked, sizes_for
from rlhf_jax.targets import check_file, check_folder

if TYPE_CHECKING:
    from rlhf_jax.models import ModelConfig
    from rlhf_jax.parallel.limits import Limits
    from rlhf_jax.parallel.topologies import Topology
    from rlhf_jax.stages.ahead import Ahead
    from rlhf_jax.stages.plan.search import Proposal

_USAGE = (
    "rlhf aot STAGE --topology v5e-256 [its options], or rlhf aot RUN:STAGE or FILE.py for a config of yours; "
    "stages are sft, reward, preference, ppo, group"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AotOptions:
    """Options of ahead-of-time compilation."""

    topology: str = ""
    """The pod: v5e-256, v6e-256 (chips), v5p-128 (cores, two a chip), or a grid, v5e:4x4. Needs libtpu. Its chips share
    the weights (fsdp) unless `--mesh` says otherwise."""
    random: Path | None = None
    """Sizes of the models: a .json file with fields of ModelConfig, or of a Hugging Face config.json. By default
    those of what `--init` or `--policy` names, or of the quickstart's model where that is not there. Weights are never
    made."""
    json: Path | None = None
    """A file for the figures."""
    hlo: Path | None = None
    """A folder for the text of every compiled program."""
    search: bool = False
    """Look for mesh, micro-batches and remat: configs that fit by arithmetic are compiled, the fastest first, until one
    fits. The batch stays, or becomes the next larger one that the devices can share."""
    tries: int = 3
    """With `--search`, compile at most so many."""


def aot(argv: list[str]) -> None:
    """Compile the programs of a stage for a topology, and print what they take."""
    stage, options, config = asked("aot", _USAGE, AotOptions(), argv)
    if options.json is not None:
        check_file(options.json, "--json")
    if options.hlo is not None:
        check_folder(options.hlo, "--hlo")
    if options.tries < 1:
        raise UsageError(f"--tries must be at least 1, found {options.tries}")
    if not options.topology:
        raise UsageError(f"--topology is missing; {_USAGE}")
    from rlhf_jax.parallel.topologies import topology
    from rlhf_jax.stages.plan import chosen_mesh

    try:
        wanted = topology(options.topology)
        if not options.search:
            config = dataclasses.replace(config, mesh=chosen_mesh(config.mesh, wanted.chips))
        random = sizes_for(config, options.random)
        found = (_searched if options.search else _compiled)(stage, config, wanted, random, options)
    except ValueError as error:
        raise UsageError(str(error)) from error
    show(found)
    save(found, options.json)


def _compiled(stage: str, config: Any, wanted: Topology, random: ModelConfig | None, options: AotOptions) -> Ahead:
    from rlhf_jax.stages.ahead import compile_for

    return compile_for(wanted, stage, config, sizes=random, hlo=options.hlo, tell=say_compiling)


def say_compiling(name: str) -> None:
    """Say on the error stream which program comes next: one may take minutes."""
    print(f"compiling {name} ...", file=sys.stderr, flush=True)


def _searched(stage: str, config: Any, wanted: Topology, random: ModelConfig | None, options: AotOptions) -> Ahead:
    """Compile what a search proposes until something fits; the last try, where nothing does."""
    from rlhf_jax.parallel.hardware import hardware
    from rlhf_jax.stages.plan.search import search

    print("planning ...", file=sys.stderr, flush=True)
    proposals = search(stage, config, hardware(options.topology), sizes=random)
    if not proposals:
        raise UsageError(
            f"no mesh of {wanted.name} holds this by arithmetic: take a larger slice, fewer rows or prompts, or "
            "adapters (--lora.rank 16); rlhf plan says what takes the memory"
        )
    _show_proposals(proposals)
    for tried in range(options.tries):
        print(f"try {tried + 1}: {proposals[0].options}", file=sys.stderr, flush=True)
        found = _compiled(stage, proposals[0].config, wanted, random, options)
        # What did not fit was planned too small, and so is what was planned no smaller.
        smaller = [x for x in proposals[1:] if x.plan.fullest.total < 0.9 * proposals[0].plan.fullest.total]
        if found.fits or not smaller:
            break
        proposals = smaller
    return found


def save(found: Ahead, path: Path | None) -> None:
    """Write the figures to a file, if one is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.to_json(), indent=1, default=str), encoding="utf-8")


def _chip(limits: Limits) -> str:
    return f"a chip: {limits.flops / 1e12:,.0f} TFLOP/s, {limits.bandwidth / 1e9:,.0f} GB/s of memory ({limits.source})"


def _show_proposals(proposals: list[Proposal]) -> None:
    from rich.table import Table

    table = Table(title="what fits by arithmetic, the fastest first")
    for name in ("tokens/s", "GiB a chip", "options"):
        table.add_column(name, justify="left" if name == "options" else "right")
    for one in proposals[:5]:
        memory = f"{one.plan.fullest.total / 2**30:.2f}"
        table.add_row(f"{one.tokens_per_second:,.0f}", memory, one.options)
    tables.console().print(table)


def show(found: Ahead) -> None:
    """Print what was compiled as tables."""
    from rich.table import Table

    gib = 2**30
    mesh = tables.sizes_of(found.mesh)
    table = Table(title=f"{found.stage}, {found.parameters:,} parameters, on {found.topology}: {mesh}")
    table.add_column("program")
    for name in ("arguments", "outputs", "temporary", "beside", "GiB in all", "least ms", "bound by", "compiled in s"):
        table.add_column(name, justify="right")
    for one in found.programs:
        parts = (one.memory.arguments, one.memory.outputs, one.memory.temporaries + one.memory.code, one.beside)
        table.add_row(
            one.name,
            *(f"{part / gib:.2f}" for part in (*parts, one.total)),
            f"{1e3 * max(one.least.values()):,.1f}" if one.least else "",
            one.bound,
            f"{one.compile_seconds:.0f}",
        )
    sent = Table(title="collectives: how often, and GiB that a chip sends")
    kinds = sorted({kind for one in found.programs for kind in one.collectives})
    sent.add_column("program")
    for kind in kinds:
        sent.add_column(kind, justify="right")
    unread = [one.name for one in found.programs if one.program is None]
    for one in found.programs:
        if one.program is None:
            sent.add_row(one.name, *("not known",) * len(kinds))
            continue
        each = (one.collectives.get(kind, (0, 0)) for kind in kinds)
        sent.add_row(one.name, *(f"{runs:,}: {size / gib:.3g}" if runs else "" for runs, size in each))
    console = tables.console()
    if found.programs:
        console.print(table)
        console.print(sent)
    fits = "fits" if found.fits else "DOES NOT FIT"
    refused = () if found.refused is None else (f"{found.refused.name} was refused: {found.refused.said}",)
    lines = [
        *refused,
        f"{fits}: {found.most / gib:.2f} GiB a chip of its {found.device_memory / gib:.2f}; models and optimisers "
        f"{found.held / gib:.2f}",
        *(() if found.limits is None else (_chip(found.limits),)),
        "least: the longest of FLOPs, bytes of memory and bytes sent at a chip's limits; nothing here was run",
        *([f"the compiler gave no text of {', '.join(unread)}: what these exchange is not known"] if unread else []),
        ", ".join(f"{name} {version}" for name, version in found.versions.items()),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
