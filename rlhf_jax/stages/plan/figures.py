"""What a plan says: a stage's phases with their memory and least time, and what a whole run comes to."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rlhf_jax.parallel.hardware import Hardware


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    """One phase of an update or an iteration; bytes, FLOPs and seconds are those of one device."""

    name: str
    """As `rlhf aot` calls the program."""
    memory: dict[str, int]
    """Bytes on the device while it runs, by part."""
    flops: float
    """What the phase computes, with what the backward pass computes again."""
    read: float
    """Bytes that it moves to and from its memory at least."""
    sent: dict[str, float]
    """Bytes that it sends to other devices, by purpose, in rings."""
    tokens: float
    """Tokens that all devices train on, score or write."""
    hardware: Hardware
    runs: int = 1
    """How often its program runs: the windows of decoding."""

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.memory.values())

    @property
    def least(self) -> dict[str, float]:
        """Seconds that each of its limits asks for; the phase takes as long as the longest, or longer."""
        limits = self.hardware.limits
        return {
            "compute": self.flops / limits.flops,
            "memory": self.read / limits.bandwidth,
            "interconnect": sum(self.sent.values()) / self.hardware.links,
        }

    @property
    def seconds(self) -> float:
        """The longest of them."""
        return max(self.least.values())

    @property
    def bound(self) -> str:
        """What limits it."""
        return max(self.least, key=lambda name: self.least[name])

    def to_json(self) -> dict[str, Any]:
        """Make the phase's object in ``rlhf plan --json``."""
        return {
            "name": self.name,
            "memory": {**self.memory, "total": self.total},
            "flops": self.flops,
            "memory_bytes": self.read,
            "sent_bytes": self.sent,
            "tokens": self.tokens,
            "runs": self.runs,
            "least_seconds": self.least,
            "bound": self.bound,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """How long a run is, how much of the roofline it reaches, and what an hour costs.

    Raises:
        ValueError: a number is out of range.
    """

    steps: int = 0
    """Updates (or iterations) of the run; 0: as the config says, or not known where the data decide."""
    tokens: int = 0
    """Tokens that a stage on packed rows trains on, over all epochs together, in place of `steps`; 0: not said."""
    efficiency: float = 1.0
    """Part of the roofline that is reached, above 0 and at most 1: seconds are the least ones divided by it."""
    price: float | None = None
    """US dollars an hour for one device; None: no cost is said."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (not said) or positive, found {getattr(self, name)}")
        if self.steps and self.tokens:
            raise ValueError("steps and tokens both say how long the run is: give one of them")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency must lie above 0 and be at most 1, found {self.efficiency}")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ValueError(f"price must be 0 or more US dollars an hour, found {self.price}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A stage on hardware, by arithmetic; nothing was run."""

    stage: str
    hardware: Hardware
    mesh: dict[str, int]
    parameters: int
    held: int
    """Bytes of models and optimisers on a device, between phases."""
    phases: tuple[PlannedPhase, ...]
    work: str
    """What one of those is: rows or prompts and their tokens, and how they are computed."""
    unit: str
    """What the phases together make: `update` or `iteration`."""
    tokens: float
    """Tokens of a unit: trained on, or written by the policy."""
    responses: int
    """Responses that are sampled in a unit; 0 where none are."""
    steps: int
    """Units of the whole run; 0: not known."""
    run: Run
    notes: tuple[str, ...] = ()
    """What a reader has to know of these figures."""

    @property
    def fullest(self) -> PlannedPhase:
        """The phase in which a device holds most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        """Whether that is no more than the device has."""
        return self.fullest.total <= self.hardware.memory

    @property
    def seconds(self) -> float:
        """Seconds of a unit, at the efficiency that was asked for."""
        return sum(phase.seconds for phase in self.phases) / self.run.efficiency

    @property
    def hours(self) -> float | None:
        """Hours of the whole run; None where nobody said how long it is."""
        return self.seconds * self.steps / 3600 if self.steps else None

    @property
    def device_hours(self) -> float | None:
        """The same, over all devices together."""
        return None if self.hours is None else self.hours * self.hardware.devices

    @property
    def cost(self) -> float | None:
        """US dollars; None without a price or a length."""
        if self.device_hours is None or self.run.price is None:
            return None
        return self.device_hours * self.run.price

    def to_json(self) -> dict[str, Any]:
        """Make the object that ``rlhf plan --json`` writes."""
        hardware = self.hardware
        return {
            "stage": self.stage,
            "hardware": hardware.name,
            "device": hardware.kind,
            "devices": hardware.devices,
            "device_memory": hardware.memory,
            "limits": hardware.limits._asdict(),
            "links": hardware.links,
            "mesh": self.mesh,
            "parameters": self.parameters,
            "held": self.held,
            "phases": [phase.to_json() for phase in self.phases],
            "most": self.fullest.total,
            "most_in": self.fullest.name,
            "fits": self.fits,
            "work": self.work,
            "unit": self.unit,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "responses_per_second": self.responses / self.seconds,
            "steps": self.steps,
            "efficiency": self.run.efficiency,
            "hours": self.hours,
            "device_hours": self.device_hours,
            "price": self.run.price,
            "cost": self.cost,
            "notes": list(self.notes),
        }
