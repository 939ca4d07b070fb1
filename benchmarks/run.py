"""All benchmarks, one JSON line a figure, and one table at the end.

    python -m benchmarks.run [--fast] [--only sft_step rollout] [--shape tiny] [--no-peers] [--repeats 5] [--out FOLDER]

On a CPU the shapes are *tiny* and *smol* (SmolLM2-135M), on an accelerator *1b* (Llama-3.2-1B), with random weights.
Peers are run where they are installed: ``pip install -e '.[bench]'`` for torch, transformers and TRL,
``pip install google-tunix`` for tunix's sampler.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

NAMES = (
    "rollout",
    "sft_step",
    "reward_step",
    "dpo_step",
    "ppo_iteration",
    "growth",
    "micro_batches",
    "lora_memory",
)


def table(records: Iterable[dict[str, Any]]) -> Table:
    """Lay figures out for people: a row a figure, with its share of the limit and how it stands to the fastest peer."""
    made = Table(
        title="benchmarks", caption="limit: what this machine allows, 100% is reached; peers: ours against the best"
    )
    for heading in ("benchmark", "shape", "figure", "whose"):
        made.add_column(heading)
    for heading in ("value", "unit", "of the limit", "against peers"):
        made.add_column(heading, justify="right" if heading != "unit" else "left")
    for record in records:
        fraction = f"{record['fraction']:.0%}" if "fraction" in record else ""
        faster = f"{record['times_faster']:.2f}x" if "times_faster" in record else ""
        named = (str(record[name]) for name in ("benchmark", "shape", "figure", "system"))
        made.add_row(*named, f"{record['value']:.4g}", record["unit"], fraction, faster)
    return made


def main() -> None:
    from benchmarks.measure import print_lines
    from benchmarks.options import options, parser

    asked = parser(__doc__)
    asked.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="SCRIPT", help=", ".join(NAMES))
    asked.add_argument("--out", type=Path, help="folder for lines.jsonl and growth.svg")
    given = asked.parse_args()
    chosen = options(given)
    records: list[dict[str, Any]] = []
    for name in given.only:
        records += print_lines(importlib.import_module(f"benchmarks.{name}").lines(chosen))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if "growth" in given.only:
            importlib.import_module("benchmarks.growth").plot(records, given.out / "growth.svg")
    Console(width=None if Console().is_terminal else 160).print(table(records))


if __name__ == "__main__":
    main()
