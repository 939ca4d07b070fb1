"""Timing, memory and the JSON line: what every script measures with.

Works that are compared take turns, so that whatever else the machine does hits all of them, and the figure is the
fastest turn. On a CPU the machine's own speed is measured in the same turns.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

Work = Callable[[], object]  # runs once, and returns when it is done


class Timing(NamedTuple):
    """Seconds of one work."""

    best: float  # of the fastest turn
    median: float
    first: float  # of the first run, which compiles


def take_turns(works: Mapping[str, Work], *, turns: int) -> dict[str, Timing]:
    """Run every work once to warm it up, then ``turns`` times one after the other.

    Args:
        works: by name; each returns when its work is done.
        turns: timed runs of each.

    Returns:
        Seconds by name.

    Example:
        >>> take_turns({"nothing": lambda: None}, turns=2)["nothing"].best < 1
        True
    """
    first = {name: _seconds(work) for name, work in works.items()}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            taken[name].append(_seconds(work))
    return {name: Timing(min(times), statistics.median(times), first[name]) for name, times in taken.items()}


def _seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def program_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled program needs at its peak, arguments and results included; None where XLA does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return int(held + found.temp_size_in_bytes)


def line(
    benchmark: str,
    figure: str,
    value: float,
    unit: str,
    *,
    system: str = "rlhf_jax",
    shape: str = "",
    limit: float | None = None,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the record of one figure.

    Args:
        benchmark: the script.
        figure: what was measured.
        value: the figure.
        unit: its unit; a rate ends with ``/s``, and of everything else less is better.
        system: whose figure it is.
        shape: the model.
        limit: the figure that the hardware allows, in the same unit.
        beside: whatever else is to be known.

    Returns:
        The record; ``fraction`` is 1 at the limit.

    Raises:
        ValueError: if the value or the limit is not a finite number, or not above 0 where one is divided by the other.

    Example:
        >>> line("demo", "step", 0.5, "s", limit=0.2)["fraction"]
        0.4
    """
    if not math.isfinite(value) or (limit is not None and not (value > 0 and 0 < limit < math.inf)):
        raise ValueError(f"{benchmark}, {figure}: no figure: {value} {unit} with a limit of {limit}")
    record = {"benchmark": benchmark, "shape": shape, "figure": figure, "system": system, "value": value, "unit": unit}
    if limit is not None:
        record |= {"limit": limit, "fraction": value / limit if unit.endswith("/s") else limit / value}
    return {**record, **(beside or {})}


def print_lines(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print records as they come, a JSON line each, and return them."""
    printed = []
    for record in records:
        print(json.dumps(record), flush=True)
        printed.append(record)
    return printed
