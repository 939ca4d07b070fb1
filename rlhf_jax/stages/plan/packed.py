"""The update of SFT, reward models and preference optimisation, planned from the state that the stage would hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from rlhf_jax import models, parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.parallel.hardware import Hardware
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.plan.activations import Rows
from rlhf_jax.stages.plan.figures import PlannedPhase
from rlhf_jax.stages.plan.passes import Cost, forward_cost, update_cost
from rlhf_jax.stages.profile.packed import packed_work


class Planned(NamedTuple):
    """What a stage's plan is made of."""

    phases: tuple[PlannedPhase, ...]
    parameters: int
    held: int
    tokens: float  # a unit's
    models: tuple[ModelConfig, ...]


def plan_packed(config: PackedConfig, sizes: ModelConfig, mesh: AbstractMesh, hardware: Hardware) -> Planned:
    """Plan the update of a stage on packed rows: full rows, of whose tokens half are targets.

    Args:
        config: the stage's.
        sizes: those of the model.
        mesh: from ``planned_mesh``.
        hardware: its devices.
    """
    work = packed_work(config, sizes, mesh, shapes=True)  # type: ignore[arg-type]
    program, parts = work.program, config.micro_batches
    state, key = program.state, jax.ShapeDtypeStruct((), "uint32")
    ((role, trained),) = state.params.items()
    trunk, whole = program.trunks[role], models.join(trained, program.trunks[role])
    length = config.data.max_length
    tokens = config.rows // parts * (config.row_length // length) * length
    rows = Rows(config.rows // parts, config.row_length, float(tokens), length, tokens / 2)
    costs = [update_cost(work.trained, whole, trained, rows, mesh, work.copies)]
    held = {
        "weights": parallel.device_bytes(trained),
        "frozen trunk": parallel.device_bytes(trunk),
        "optimiser state": parallel.device_bytes(state) - parallel.device_bytes(state.params),
    }
    if program.reference is not None:
        costs.append(forward_cost(work.trained, program.reference[role], rows, mesh))
        # Under adapters the reference is the same trunk, with other adapters.
        own = models.split(program.reference[role])[0]
        held["reference"] = parallel.device_bytes(own)
    batch = program.arguments(work.batches[0], key)[1][0]
    beside = {
        "gradients": gradient_bytes(trained) * (2 if parts > 1 else 1),
        "batch": parallel.device_bytes(batch),
    }
    update = together("update", costs, parts, held | beside, hardware, tokens=float(parts * tokens), stepped=(state, 1))
    found = sum(x.size for x in jax.tree.leaves(whole))
    return Planned((update,), found, sum(held.values()), update.tokens, (work.trained,))


def gradient_bytes(trained: Any) -> int:
    """Count the gradients of what is trained on one device: float32, shared as the weights are."""
    return sum(
        parallel.device_bytes(jax.ShapeDtypeStruct(x.shape, "float32", sharding=x.sharding))
        for x in jax.tree.leaves(trained)
    )


def together(
    name: str,
    costs: list[Cost],
    times: int,
    held: dict[str, int],
    hardware: Hardware,
    *,
    tokens: float,
    stepped: tuple[Any, int] | None = None,
) -> PlannedPhase:
    """Make one phase of passes that run one after another, each so many times.

    Args:
        name: the phase's.
        costs: those of the passes.
        times: how often all of them run.
        held: bytes that lie on the device meanwhile, by part.
        hardware: the devices.
        tokens: what the phase works on, over all devices.
        stepped: a training state, and how often its optimiser takes a step: all of it is read and written.
    """
    sent: dict[str, float] = {}
    memory = {part: size for part, size in held.items() if size}
    for cost in costs:
        sent = {part: sent.get(part, 0.0) + times * cost.sent.get(part, 0.0) for part in {**sent, **cost.sent}}
        for part, size in cost.memory.items():  # only the larger of two models' work is there at a time
            memory[part] = max(memory.get(part, 0), size) if "backward" not in part else memory.get(part, 0) + size
    read = times * sum(cost.read for cost in costs)
    if stepped is not None:
        read += 2 * stepped[1] * parallel.device_bytes(stepped[0])
    return PlannedPhase(
        name=name,
        memory={part: size for part, size in memory.items() if size},
        flops=times * sum(cost.flops for cost in costs),
        read=read,
        sent={part: size for part, size in sent.items() if size},
        tokens=tokens,
        hardware=hardware,
    )
