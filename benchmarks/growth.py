"""How time and memory of an update grow as batch, length, layers and vocabulary double.

    python -m benchmarks.growth [--fast] [--repeats 5] [--plot growth.svg]

Supervised fine-tuning of a small model. Each size doubles alone, from the same smallest update. *Memory* is what the
compiled program needs at its peak, parameters, optimiser and batch included. The exponent is the slope of a straight
line through the logarithms: 1 is in proportion, 2 with the square, 0 not at all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import ours
from benchmarks.measure import line, print_lines, take_turns
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES


class Sizes(NamedTuple):
    """What doubles."""

    batch: int
    length: int
    layers: int
    vocabulary: int


SMALLEST = {"fast": Sizes(2, 16, 1, 64), "tiny": Sizes(2, 64, 1, 1024), "1b": Sizes(1, 256, 1, 16384)}
DOUBLINGS = {"fast": 1, "tiny": 4, "1b": 4}


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """Fit the slope of ``log value`` over ``log size``.

    Example:
        >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    return float(np.polyfit(np.log(list(sizes)), np.log(list(values)), 1)[0])


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure the smallest update and every doubling of each of its sizes, and fit the exponents."""
    for shape in asked.chosen(tuple(SMALLEST)):
        smallest, doublings = SMALLEST[shape], DOUBLINGS[shape]
        grown = {
            (name, getattr(smallest, name) * 2**i): smallest._replace(**{name: getattr(smallest, name) * 2**i})
            for name in Sizes._fields
            for i in range(doublings + 1)
        }
        steps = {sizes: _step(shape, sizes) for sizes in set(grown.values())}
        timings = take_turns({str(sizes): step for sizes, step in steps.items()}, turns=asked.turns)
        found: dict[tuple[str, str], list[tuple[int, float]]] = {}
        about = {"device": jax.devices()[0].device_kind, "turns": asked.turns, "smallest": smallest._asdict()}
        for (name, size), sizes in grown.items():
            values = {"time": (timings[str(sizes)].best, "s"), "memory": (steps[sizes].bytes, "bytes")}
            for what, (value, unit) in values.items():
                if value is not None:
                    found.setdefault((what, name), []).append((size, value))
                    yield line("growth", f"{what} by {name}", value, unit, shape=shape, beside={"size": size, **about})
        for (what, name), points in found.items():
            slope = exponent(*zip(*points, strict=True))
            yield line("growth", f"exponent of {what} by {name}", slope, "exponent", shape=shape, beside=about)


def _step(shape: str, sizes: Sizes) -> ours.Step:
    config = dataclasses.replace(SHAPES[shape], n_layers=sizes.layers, vocab_size=sizes.vocabulary)
    return ours.sft(config, sizes.batch, sizes.length)


def plot(records: Iterable[dict[str, Any]], path: Path) -> None:
    """Draw time and memory over the sizes, each relative to its smallest, on logarithmic axes.

    Args:
        records: those of ``lines``, for one shape.
        path: a PNG or SVG file.
    """
    import matplotlib.pyplot as plt

    listed = [record for record in records if record["benchmark"] == "growth"]
    slopes = {r["figure"].removeprefix("exponent of "): r["value"] for r in listed if r["unit"] == "exponent"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for axis, what in zip(axes, ("time", "memory"), strict=True):
        for name in Sizes._fields:
            points = [(r["size"], r["value"]) for r in listed if r["figure"] == f"{what} by {name}"]
            if points:
                (first, least), label = points[0], f"{name}: {slopes[f'{what} by {name}']:.2f}"
                axis.plot([size / first for size, _ in points], [y / least for _, y in points], marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel="times the smallest size", ylabel=f"times the smallest {what}")
        axis.set_title(f"{what} of an update, and its exponent")
        axis.legend()
        for limits, set_ticks in ((axis.get_xlim(), axis.set_xticks), (axis.get_ylim(), axis.set_yticks)):
            ticks = [2**i for i in range(math.floor(math.log2(limits[1])) + 1)]
            set_ticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--plot", type=Path, help="a PNG or SVG file to draw")
    given = asked.parse_args()
    records = print_lines(lines(options(given)))
    if given.plot is not None:
        plot(records, given.plot)


if __name__ == "__main__":
    main()
