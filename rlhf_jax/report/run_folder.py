"""Reading a run folder as it is at this moment: finished, interrupted, or still being written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.stages.heldout_samples import FILE as HELDOUT
from rlhf_jax.training import Spent, read_goodput

Row = Mapping[str, Any]


class ReportError(ValueError):
    """A run folder that no report can be written about; the message says what was found and what to do."""


class RunFolder(NamedTuple):
    """The contents of a run folder; a file that is not there (yet) is an empty dict or list."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    metrics: dict[str, list[Row]]  # stage -> rows in the order of their steps
    samples: list[Row]
    goodput: dict[str, Spent]  # by stage, where its time went
    heldout: list[Row]  # all responses of each stage's first and latest evaluation


def read_run(path: Path | str) -> RunFolder:
    """Read the JSON files of a run folder.

    A last line without its line end is left out: another process is writing it.

    Args:
        path: the folder.

    Returns:
        What it holds.

    Raises:
        ReportError: if the folder or all of its files are missing, or a file is not what it should be; the message
            names the file and the line.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "metrics.jsonl").write_text('{"stage": "sft", "step": 1, "sft/loss": 4.0}\\n{"sta')
        >>> read_run(folder).metrics
        {'sft': [{'stage': 'sft', 'step': 1, 'sft/loss': 4.0}]}
    """
    folder = Path(path)
    names = ("config.json", "metrics.jsonl", "summary.json", "samples.jsonl")
    if not any((folder / name).is_file() for name in names):
        what = "is not a folder" if not folder.is_dir() else f"holds none of {', '.join(names)}"
        raise ReportError(f"{folder} {what}; name the folder that a run wrote (its --out)")
    metrics: dict[str, list[Row]] = {}
    for number, row in enumerate(_read_lines(folder / "metrics.jsonl"), 1):
        if not isinstance(row.get("stage"), str) or not isinstance(row.get("step"), int):
            raise ReportError(
                f"{folder / 'metrics.jsonl'}:{number}: expected the fields 'stage' and 'step', found {row}"
            )
        metrics.setdefault(row["stage"], []).append(row)
    summary = _read_object(folder / "summary.json")
    if "yardsticks" in summary:  # what baselines were called by version 0.1
        summary["baselines"] = summary.pop("yardsticks")
    return RunFolder(
        path=folder,
        config=_read_object(folder / "config.json"),
        summary=summary,
        metrics={stage: sorted(rows, key=lambda row: row["step"]) for stage, rows in metrics.items()},
        samples=_read_lines(folder / "samples.jsonl"),
        goodput=_read_goodput(folder / "goodput.jsonl"),
        heldout=_read_lines(folder / HELDOUT),
    )


def series(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    """The (step, value) points of one figure; rows without it are passed over.

    Example:
        >>> series([{"step": 1, "sft/loss": 2.0}, {"step": 2}], "sft/loss")
        [(1, 2.0)]
    """
    return [(row["step"], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]


def _read_goodput(path: Path) -> dict[str, Spent]:
    try:
        return read_goodput(path)
    except ValueError as error:
        raise ReportError(str(error)) from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return _parse(path.read_bytes(), str(path))


def _read_lines(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ReportError(f"{where}: not JSON ({error}); put it right and write the report again") from error
    if not isinstance(value, dict):
        raise ReportError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
