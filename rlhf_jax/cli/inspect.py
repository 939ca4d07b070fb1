"""``rlhf inspect``: every array that a stage holds on its devices, as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.cli import tables
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.cli.stage_options import asked, sizes_for
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.stages.inspect import Arrays, Held

_USAGE = (
    "rlhf inspect STAGE [its options], rlhf inspect FILE.py for the config that a file defines, or "
    "rlhf inspect RUN:STAGE for that of a run folder; stages are sft, reward, preference, ppo, group"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of the list."""

    devices: int = 0
    """So many devices like this machine's first, which need not be there, and share the weights (fsdp) unless `--mesh`
    says otherwise; 0 takes those of this machine, as training does."""
    topology: str = ""
    """A pod in their place: v5e-256, v6e-256 (chips), v5p-128 (cores, two a chip), or a grid, v5e:4x4. Needs libtpu."""
    random: Path | None = None
    """Sizes of the models: a .json file with fields of ModelConfig, or of a Hugging Face config.json. By default
    those of what `--init` or `--policy` names, or of the quickstart's model where that is not there. Weights are never
    made."""
    json: Path | None = None
    """A file for the same figures, one array at a time."""


def inspect(argv: list[str]) -> None:
    """List the arrays of a stage."""
    stage, options, config = asked("inspect", _USAGE, InspectOptions(), argv)
    if options.json is not None:
        check_file(options.json, "--json")
    if not 0 <= options.devices <= 2**20 or (options.devices and options.topology):
        raise UsageError("give --devices N, 1 to 1048576, or --topology, or neither for the devices of this machine")
    from rlhf_jax.stages.inspect import arrays_of

    mesh = _mesh(options, config)
    found = arrays_of(stage, config, mesh=mesh, sizes=sizes_for(config, options.random))
    show(found)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")


def _mesh(options: InspectOptions, config: Any) -> Any:
    from rlhf_jax import parallel
    from rlhf_jax.parallel.topologies import topology, topology_devices
    from rlhf_jax.stages.plan import chosen_mesh

    if options.devices:
        return parallel.described_mesh(chosen_mesh(config.mesh, options.devices), options.devices)
    try:
        if not options.topology:
            return parallel.make_mesh(config.mesh)
        devices = topology_devices(topology(options.topology))
        return parallel.make_mesh(chosen_mesh(config.mesh, len(devices)), devices)
    except ValueError as error:
        raise UsageError(str(error)) from error


def show(found: Arrays) -> None:
    """Print a table of arrays, one of groups, and what stays whole."""
    from rich.table import Table

    mesh = tables.sizes_of(found.mesh)
    table = Table(title=f"{found.stage} on {found.platform}: {mesh}")
    for name, side in (("array", "left"), ("shape", "left"), ("type", "left"), ("lies over", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    table.add_column("in all", justify="right")
    table.add_column("a device", justify="right")
    group = ""
    for one, count in _alike(found.arrays):
        if one.group != group:
            table.add_section()
            table.add_row(one.group, style="bold")
            group = one.group
        path = one.path + (f"  ({count} of them)" if count > 1 else "")
        all_, device = _size(count * one.bytes), _size(count * one.device_bytes)
        if one.shared:
            all_, device = "", f"is {one.shared}"
        elif one.waits:
            device = "0, waits in the host's memory"
        table.add_row(path, "x".join(map(str, one.shape)) or "scalar", one.dtype, _lies(one), all_, device)
    totals = Table(title="bytes")
    for name in ("group", "in all", "a device"):
        totals.add_column(name, justify="left" if name == "group" else "right")
    for name, both in found.groups.items():
        totals.add_row(name, *map(_size, both))
    totals.add_row("all", *map(_size, found.total), style="bold")
    console = tables.console()
    console.print(table)
    console.print(totals)
    lines = [f"whole: {warning}" for warning in found.warnings]
    lines += [
        "Not all of this is there at once, and activations and gradients are not in it: `rlhf aot` gives what the "
        "compiled programs take."
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _alike(arrays: tuple[Held, ...]) -> list[tuple[Held, int]]:
    """Join neighbours whose paths differ by a number alone, as the layers of a cache do."""
    found: list[tuple[Held, int]] = []
    places: dict[Any, int] = {}
    for one in arrays:
        path = re.sub(r"(^|/)\d+(?=/|$)", r"\1*", one.path) if one.group in _BY_LAYER else one.path
        key = one._replace(path=path)
        if key in places:
            at = places[key]
            found[at] = (found[at][0]._replace(path=path), found[at][1] + 1)
        else:
            places[key] = len(found)
            found.append((one, 1))
    return found


_BY_LAYER = ("KV cache", "weights laid out for decoding")


def _lies(one: Held) -> str:
    """Write where the dimensions lie, ``data+fsdp, -, tensor``; those that are whole at the end are left out."""
    names = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in one.spec]
    while names and names[-1] == "-":
        names.pop()
    return ", ".join(names) or "whole"


def _size(count: int) -> str:
    """Write a number of bytes in the largest unit that leaves at least one before the point.

    Example:
        >>> _size(12), _size(1536), _size(3 * 2**30)
        ('12 B', '1.50 KiB', '3.00 GiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{count / 2**power:,.2f} {unit}"
    return f"{count} B"
