"""Weak scaling of SFT, computed: as many rows a chip on 8 to 256 chips, and what each of them holds and sends.

Command:  python experiments/pods/weak_scaling.py            (needs libtpu; ``--help``: other chips, rows and sizes)
Hardware: none: every step is compiled for its slice, and nothing is run
Result:   docs/scale.md, "Weak scaling"

A chip's work stays the same, so what it sends should stay the same as well, and what it holds should fall with its part
of the model.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from pod import LLAMA3_8B

from rlhf_jax import models, parallel, stages
from rlhf_jax.data.config import DataConfig
from rlhf_jax.parallel.topologies import topology
from rlhf_jax.stages.ahead import Ahead, compile_for

LLAMA32_1B = dataclasses.replace(
    LLAMA3_8B, d_model=2048, n_layers=16, n_heads=32, head_dim=64, d_ff=8192, tie_embeddings=True
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is compiled."""

    chip: str = "v5e"
    """The kind of chip: v5e or v6e."""
    chips: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Sizes of slices."""
    rows: int = 1
    """Rows a chip."""
    length: int = 2048
    """Tokens of a row."""
    json: Path | None = None
    """A file for the figures."""


def step(options: Options, chips: int, sizes: models.ModelConfig = LLAMA32_1B) -> Ahead:
    """Compile the update of SFT on so many chips, all of which share the model."""
    wanted = topology(f"{options.chip}-{chips}")
    mesh = parallel.MeshConfig(data=1, fsdp=chips)
    config = stages.SFTConfig(
        mesh=mesh,
        rows=options.rows * chips,
        row_length=options.length,
        data=DataConfig(max_length=options.length),
    )
    return compile_for(wanted, "sft", config, sizes=sizes)


def figures(found: Ahead) -> dict[str, Any]:
    """Sum up a step, in GiB a chip and milliseconds."""
    (update,) = found.programs
    gib, least = 2**30, update.least
    return {
        "slice": found.topology,
        "held": found.held / gib,
        "in all": update.total / gib,
        "sent": update.sent / gib,
        **{kind: sent / gib for kind, (_, sent) in update.collectives.items()},
        **{f"least ms, {name}": 1e3 * seconds for name, seconds in least.items()},
        "compiled in s": update.compile_seconds,
    }


def main(options: Options) -> None:
    """Print a line for every slice."""
    rows = []
    for chips in options.chips:
        print(f"compiling for {chips} chips ...", file=sys.stderr, flush=True)
        rows.append(figures(step(options, chips)))
        print("  ".join(f"{name} {x:.3g}" if isinstance(x, float) else str(x) for name, x in rows[-1].items()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
