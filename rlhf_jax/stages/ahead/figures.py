"""What is known of a stage's programs before anything runs: memory by part, collectives, the least time of a step."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from rlhf_jax.parallel.compiled import Memory, Program
from rlhf_jax.parallel.limits import Limits


class Work(NamedTuple):
    """What a program has to do, by arithmetic (``models.costs``), over all devices together."""

    flops: float = 0.0
    read: float = 0.0  # bytes that one device reads from its memory, where that is more than its arguments once
    tokens: float = 0.0  # that are trained on, scored or written
    turns: int = 1  # the outermost loop whose length the compiler does not know makes so many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """One program as it was compiled; bytes and seconds are those of one device."""

    name: str
    memory: Memory
    beside: int  # models and optimisers of the stage that wait on the device and are no argument of this program
    program: Program | None  # None: the compiler gave no text, and what is exchanged is not known
    work: Work
    compile_seconds: float
    devices: int
    limits: Limits | None  # None: nobody knows what the device can do
    links: float  # bytes a second that a device sends; 0: not known

    @property
    def total(self) -> int:
        """Bytes on the device while it runs."""
        return self.memory.total + self.beside

    @property
    def sent(self) -> int:
        """Bytes that a device sends to others."""
        return sum(sent for _, sent in self.collectives.values())

    @property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """How often a kind of collective runs, and the bytes that a device sends by it."""
        found: dict[str, tuple[int, int]] = {}
        for one in () if self.program is None else self.program.collectives:
            again = 1 if one.counted else self.work.turns
            runs, sent = found.get(one.kind, (0, 0))
            found[one.kind] = (runs + again * one.turns, sent + again * one.sent)
        return dict(sorted(found.items()))

    @property
    def least(self) -> dict[str, float]:
        """Seconds that it takes at least, by what limits it; the program takes as long as the longest, or longer.

        Empty where nobody knows what the device can do.
        """
        if self.limits is None:
            return {}
        read = max(self.work.read, self.memory.arguments + self.memory.outputs)
        found = {
            "compute": self.work.flops / (self.devices * self.limits.flops),
            "memory": read / self.limits.bandwidth,
        }
        known = self.links and self.program is not None
        return {**found, "interconnect": self.sent / self.links} if known else found

    @property
    def bound(self) -> str:
        """What limits it."""
        return max(self.least, key=lambda name: self.least[name], default="not known")

    def to_json(self) -> dict[str, Any]:
        """Make the program's object in ``rlhf aot --json``."""
        return {
            "name": self.name,
            "memory": {**self.memory._asdict(), "beside": self.beside, "total": self.total},
            "collectives": None
            if self.program is None
            else {kind: {"runs": runs, "sent_bytes": sent} for kind, (runs, sent) in self.collectives.items()},
            "flops": self.work.flops,
            "tokens": self.work.tokens,
            "least_seconds": self.least,
            "bound": self.bound,
            "compile_seconds": self.compile_seconds,
        }


class Refused(NamedTuple):
    """A program that the compiler refused, as it does not fit on a device; what comes after it is not known."""

    name: str
    needed: int  # bytes, mostly of temporaries alone; 0: the compiler does not say
    said: str  # the compiler's words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ahead:
    """A stage on a topology."""

    stage: str
    topology: str  # empty: devices of this machine
    device: str
    mesh: dict[str, int]
    device_memory: int  # bytes; 0: not known
    limits: Limits | None
    held: int  # bytes of models and optimisers on a device
    parameters: int
    programs: tuple[Compiled, ...]
    refused: Refused | None  # None: all were compiled
    versions: dict[str, str]

    @property
    def most(self) -> int:
        """The most bytes that a device holds, or would have to hold."""
        needed = 0 if self.refused is None else self.held + self.refused.needed
        return max(needed, *(program.total for program in self.programs), 0)

    @property
    def fits(self) -> bool | None:
        """Whether that is less than the device has; None where nobody knows."""
        if self.refused is not None:
            return False
        return self.most <= self.device_memory if self.device_memory else None

    def to_json(self) -> dict[str, Any]:
        """Make the object that ``rlhf aot --json`` writes."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **fields,
            "limits": None if self.limits is None else self.limits._asdict(),
            "programs": [program.to_json() for program in self.programs],
            "refused": None if self.refused is None else self.refused._asdict(),
            "most": self.most,
            "fits": self.fits,
        }
