"""The search for a mesh, a batch and a remat: the fastest that a plan says will fit, to be compiled in that order."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple, TypeVar, get_args

from rlhf_jax.models import ModelConfig
from rlhf_jax.models.config import Remat
from rlhf_jax.parallel import AXES, MeshConfig
from rlhf_jax.parallel.hardware import Hardware
from rlhf_jax.runs.folder import RunError
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.plan.figures import Plan
from rlhf_jax.stages.plan.run import plan

Config = TypeVar("Config", bound=PackedConfig | OnlineConfig)
MOST_CUTS = 64  # micro-batches
MOST_TENSOR = 8  # devices on the tensor axis: beyond a few, what they exchange in every block outweighs what they share


class Proposal(NamedTuple):
    """A config that a plan says will fit."""

    config: PackedConfig | OnlineConfig
    plan: Plan

    @property
    def options(self) -> str:
        """The options of the command line that ask for it."""
        config, mesh = self.config, self.plan.mesh
        batch = f"--rows {config.rows}" if isinstance(config, PackedConfig) else f"--prompts {config.prompts}"
        sizes = ",".join(f"{name}={size}" for name, size in mesh.items())
        return f"--mesh {sizes} {batch} --micro-batches {config.micro_batches} --remat {config.remat}"

    @property
    def tokens_per_second(self) -> float:
        """By the plan."""
        return self.plan.tokens / self.plan.seconds


def search(
    stage: str, config: PackedConfig | OnlineConfig, hardware: Hardware, *, sizes: ModelConfig | None = None
) -> list[Proposal]:
    """Propose configs that fit, the one with most tokens a second first; among equals that with least to wait for.

    The batch is the config's, or the next larger one that the devices can share; it is cut into micro-batches, which
    change no number, where memory asks for it. Every mesh is planned with every remat and number of micro-batches; a
    mesh, a remat or a number of micro-batches that the config has is kept.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.
        config: the stage's; its mesh, micro-batches and remat are looked for where they are the defaults.
        hardware: from ``parallel.hardware.hardware``.
        sizes: those of the models, as ``plan`` takes them.

    Returns:
        The proposals; none where no mesh has the memory.

    Example:
        >>> from rlhf_jax.parallel.hardware import hardware
        >>> from rlhf_jax.stages import SFTConfig
        >>> best = search("sft", SFTConfig(), hardware("h100x2"))[0]
        >>> best.plan.fits, best.options
        (True, '--mesh data=1,fsdp=2,tensor=1 --rows 16 --micro-batches 1 --remat block')
    """

    every = meshes(hardware.devices)
    if config.mesh != MeshConfig():
        given = MeshConfig(**dict(zip(AXES, config.mesh.sizes(hardware.devices), strict=True)))
        every = [given]
    found = []
    for mesh in every:
        with contextlib.suppress(RunError):  # what this mesh cannot do, such as sharing so many slots
            variants = _variants(_shared(config, mesh), config)
            found += [Proposal(one, plan(stage, one, hardware, sizes=sizes)) for one in variants]
    return sorted((one for one in found if one.plan.fits), key=lambda one: (-one.tokens_per_second, _waits(one.plan)))


def _waits(found: Plan) -> float:
    """Sum the seconds of all limits, which overlap in a plan and may not quite in a program."""
    return sum(sum(phase.least.values()) for phase in found.phases)


def meshes(devices: int) -> list[MeshConfig]:
    """List the meshes of so many devices whose fsdp and tensor axes are powers of two.

    Example:
        >>> [(mesh.data, mesh.fsdp, mesh.tensor) for mesh in meshes(2)]
        [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    """
    return [
        MeshConfig(data=devices // (tensor * fsdp), fsdp=fsdp, tensor=tensor)
        for tensor in _powers(min(devices, MOST_TENSOR))
        for fsdp in _powers(devices // tensor)
        if devices % (tensor * fsdp) == 0
    ]


def _powers(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length())]


def _shared(config: Config, mesh: MeshConfig) -> Config:
    """Give a config the mesh, and the smallest batch of at least its own that the mesh's devices can share."""
    shares = mesh.data * mesh.fsdp
    if isinstance(config, PackedConfig):
        return dataclasses.replace(config, mesh=mesh, rows=-(-config.rows // shares) * shares, micro_batches=1)
    unit = shares * config.minibatches
    return dataclasses.replace(config, mesh=mesh, prompts=-(-config.prompts // unit) * unit, micro_batches=1)


def _cuts(config: PackedConfig | OnlineConfig) -> list[int]:
    """List numbers of micro-batches whose parts the devices can still share."""
    shares = config.mesh.data * config.mesh.fsdp
    whole = config.rows if isinstance(config, PackedConfig) else config.prompts // config.minibatches
    return [n for n in _powers(min(max(whole // shares, 1), MOST_CUTS)) if whole % (n * shares) == 0] or [1]


def _variants(shared: Config, given: PackedConfig | OnlineConfig) -> Iterator[Config]:
    """Try every remat and number of micro-batches that the given config leaves open."""
    every: tuple[Remat, ...] = get_args(Remat) if given.remat == "model" else (given.remat,)
    for remat, cuts in itertools.product(every, _cuts(shared) if given.micro_batches == 1 else [given.micro_batches]):
        yield dataclasses.replace(shared, remat=remat, micro_batches=cuts)
