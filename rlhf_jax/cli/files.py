"""What commands share about files: which folders are runs, what a bad row does, how rows are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.cli.parsing import UsageError


def must_be_run(folder: Path) -> None:
    """Raise a UsageError when this is no run folder."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.json")


def write(to: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows whole or not at all, and say where they are."""
    from rlhf_jax.data import write_jsonl

    to.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(to, rows)
    print(to)
