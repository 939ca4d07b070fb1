"""What is known of a stage's arrays: shape, where their dimensions lie, bytes in all and on a device."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jax.sharding import PartitionSpec

# An array that stays whole is spoken of where it is more than this part of all that a device holds.
LARGE = 0.01


class Held(NamedTuple):
    """One array of a stage."""

    group: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    bytes: int  # over all devices, every number once
    device_bytes: int  # on the device that has most
    undivided: tuple[tuple[int, str], ...]  # dimensions that are whole because this axis does not divide them
    shared: str  # where the very same array is counted; empty: here
    waits: bool  # in the host's memory, and takes none of a device's

    def to_json(self) -> dict[str, Any]:
        """Make the array's object in ``rlhf inspect --json``."""
        sharding = [list(axis) if isinstance(axis, tuple) else axis for axis in self.spec]
        return {**self._asdict(), "spec": sharding, "undivided": [list(pair) for pair in self.undivided]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """All arrays of a stage; those of an iteration come and go, so they are never all there at once."""

    stage: str
    mesh: dict[str, int]
    platform: str
    arrays: tuple[Held, ...]

    @property
    def groups(self) -> dict[str, tuple[int, int]]:
        """Bytes in all, and of a device, by group."""
        found: dict[str, tuple[int, int]] = {}
        for one in self.arrays:
            whole, device = found.get(one.group, (0, 0))
            found[one.group] = (whole + one.bytes, device + one.device_bytes)
        return found

    @property
    def total(self) -> tuple[int, int]:
        """Bytes of all groups, in all and of a device."""
        return sum(one.bytes for one in self.arrays), sum(one.device_bytes for one in self.arrays)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is said of large arrays that an axis of the mesh should divide and cannot; arrays alike share a line."""
        least = LARGE * self.total[1]
        alike: dict[tuple[tuple[int, ...], int, str], list[Held]] = {}
        for one in self.arrays:
            for at, axis in one.undivided if one.device_bytes > least else ():
                alike.setdefault((one.shape, at, axis), []).append(one)
        said = []
        for (shape, at, axis), found in alike.items():
            why = f"dimension {at} ({shape[at]:,}) stays whole on every device, because {axis} does not divide it"
            more = f"; {len(found) - 1} more arrays of this shape" if len(found) > 1 else ""
            said.append(f"{found[0].path} {list(shape)}: {why}{more}")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Make the object that ``rlhf inspect --json`` writes."""
        return {
            "stage": self.stage,
            "mesh": self.mesh,
            "platform": self.platform,
            "arrays": [one.to_json() for one in self.arrays],
            "groups": {name: {"bytes": a, "device_bytes": b} for name, (a, b) in self.groups.items()},
            "bytes": self.total[0],
            "device_bytes": self.total[1],
            "warnings": list(self.warnings),
        }
