"""A plan beside what a compiler made of the same stage on the same slice: the figures of ``rlhf aot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_jax.stages.plan.figures import Plan, PlannedPhase


class Pair(NamedTuple):
    """One figure, planned and compiled."""

    program: str
    figure: str
    planned: float
    compiled: float

    @property
    def difference(self) -> float | None:
        """How much more the compiled program takes, as a part of the plan; None where the plan has nothing."""
        return None if not self.planned else self.compiled / self.planned - 1


def beside(plan: Plan, ahead: Mapping[str, Any]) -> tuple[Pair, ...]:
    """Put a plan's phases beside the programs of the same names.

    Decoding was compiled for one window, so one window's share of it is taken. Programs that the plan does not have,
    such as ``prepare``, are left out.

    Args:
        plan: the plan.
        ahead: what ``rlhf aot --json`` wrote.

    Returns:
        For each program bytes on a device, bytes that it sends, and least seconds.

    Raises:
        ValueError: the figures are of another stage, slice, mesh or model.
    """
    topology = plan.hardware.topology
    expected = {
        "stage": plan.stage,
        "topology": "" if topology is None else topology.name,
        "mesh": plan.mesh,
        "parameters": plan.parameters,
    }
    for name, wanted in expected.items():
        if name not in ahead:
            raise ValueError(f"expected what `rlhf aot --json` wrote, found no {name!r} in it")
        if ahead[name] != wanted:
            raise ValueError(f"the compiled figures are of another {name}: {ahead[name]}, and the plan's is {wanted}")
    found = {program["name"]: program for program in ahead["programs"]}
    pairs: list[Pair] = []
    for phase in plan.phases:
        decodes = phase.name.startswith("decode ")
        names = [name for name in found if name == phase.name or (decodes and name.startswith("decode "))]
        for name in names:
            pairs += _pairs(phase, found[name], phase.runs if decodes else 1)
    return tuple(pairs)


def _pairs(phase: PlannedPhase, program: Mapping[str, Any], runs: int) -> list[Pair]:
    name = program["name"]
    found = [Pair(name, "bytes on a device", float(phase.total), float(program["memory"]["total"]))]
    if program["collectives"] is not None:
        sent = float(sum(one["sent_bytes"] for one in program["collectives"].values()))
        found.append(Pair(name, "bytes sent", sum(phase.sent.values()) / runs, sent))
    if program["least_seconds"]:
        found.append(Pair(name, "least seconds", phase.seconds / runs, max(program["least_seconds"].values())))
    return found
