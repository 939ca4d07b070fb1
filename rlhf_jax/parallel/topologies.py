"""TPU pods that are not there: their names, their chips, and the devices that a program can be compiled for.

libtpu describes a topology and compiles for it on any Linux machine. Nothing can be run on such devices, and no array
can lie there.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """One chip: what it holds, and what its links to other chips carry."""

    name: str
    kind: str  # as ``jax.Device.device_kind`` says it
    memory: int  # bytes that libtpu leaves to a program, a little less than the chip has
    links: float  # bytes a second that a chip sends into the interconnect, over all of its links together
    cores: int  # in a topology's common name each counts as one
    largest: tuple[int, ...]  # the grid of the largest slice

    @property
    def dimensions(self) -> int:
        """How many the grid has."""
        return len(self.largest)


# Cloud TPU documentation, system architecture, which gives both directions of the links together; memory as libtpu
# 0.0.42 says it where a program does not fit.
CHIPS = {
    "v5e": Chip("v5e", "TPU v5 lite", int(15.75 * 2**30), 200e9, 1, (16, 16)),
    "v5p": Chip("v5p", "TPU v5", int(95.74 * 2**30), 600e9, 2, (16, 16, 24)),
    "v6e": Chip("v6e", "TPU v6 lite", int(31.25 * 2**30), 400e9, 1, (16, 16)),
}
# What libtpu would ask a TPU's host for, and what keeps it from waiting for another process.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """A slice of a pod."""

    chip: Chip
    grid: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are; each is one device."""
        return math.prod(self.grid)

    @property
    def name(self) -> str:
        """What libtpu calls it, such as ``v5e:4x4``."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"


def topology(name: str) -> Topology:
    """Find a topology by its grid or by its common name, which MaxText and Google's tools use as well.

    Args:
        name: ``v5e:16x16``, or ``v5e-256`` and ``v6e-256`` by chips, ``v5p-128`` by cores, of which a chip has two.

    Raises:
        ValueError: no such chip, or a number that no slice has.

    Example:
        >>> topology("v5e-256").name, topology("v5p-128").name, topology("v6e:4x8").chips
        ('v5e:16x16', 'v5p:4x4x4', 32)
    """
    found = re.fullmatch(r"(v\d\w*)(?::(\d+(?:x\d+)*)|-(\d+))", name)
    chip = CHIPS.get(found.group(1)) if found else None
    if found is None or chip is None:
        raise ValueError(
            f"topology {name!r}: expected a chip with its grid or its number, such as v5e:4x4 or v5e-16, for one of "
            f"{', '.join(CHIPS)}"
        )
    if found.group(2):
        grid = tuple(int(n) for n in found.group(2).split("x"))
        if len(grid) != chip.dimensions:
            raise ValueError(f"topology {name!r}: the grid of a {chip.name} has {chip.dimensions} dimensions")
        return _checked(name, Topology(chip, grid))
    count, rest = divmod(int(found.group(3)), chip.cores)
    if rest or count < 1 or count & (count - 1):
        by = "cores, two a chip," if chip.cores == 2 else "chips"
        raise ValueError(f"topology {name!r}: {chip.name} slices are named by their {by} a power of two of them")
    return _checked(name, Topology(chip, _grid(count, chip.dimensions)))


def _checked(name: str, found: Topology) -> Topology:
    """Return a slice as it is if there can be such a one: sides of 1, 2 or multiples of 4, within the pod."""
    largest = found.chip.largest
    sides = zip(sorted(found.grid), sorted(largest), strict=True)
    if not all(1 <= side <= most and (side in (1, 2) or side % 4 == 0) for side, most in sides):
        raise ValueError(
            f"topology {name!r}: the sides of a {found.chip.name} slice are 1, 2 or multiples of 4, up to "
            f"{'x'.join(map(str, largest))}, found {'x'.join(map(str, found.grid))}"
        )
    return found


def _grid(count: int, dimensions: int) -> tuple[int, ...]:
    """Lay a power of two of chips out as slices are: the sides as equal as can be, the smaller ones first."""
    power = count.bit_length() - 1
    if dimensions == 3 and count == 4:  # the smallest slice, one host, lies flat
        return (2, 2, 1)
    sides = [power // dimensions + (i >= dimensions - power % dimensions) for i in range(dimensions)]
    return tuple(2**side for side in sides)


def topology_devices(wanted: Topology) -> list[jax.Device]:
    """Make the devices of a topology, for ``make_mesh``.

    Raises:
        ValueError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("compiling for TPUs needs libtpu: pip install -e '.[tpu]' in a clone (Linux, no TPU)")
    from jax.experimental import topologies

    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=wanted.name).devices)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"libtpu knows no topology {wanted.name}: {error}") from error
