"""The search for a mesh, a batch and a remat: the fastest that a plan says will fit, to be compiled in that order."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar, get_args

from rlhf_jax.models import ModelConfig
from rlhf_jax.models.config import Remat
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.parallel.hardware import Hardware
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.plan.figures import Plan
from rlhf_jax.stages.plan.run import plan

Config = TypeVar("Config", bound=PackedConfig | OnlineConfig)
MOST_TENSOR = 8  # devices on the tensor axis: beyond a few, what they exchange in every block outweighs what they share
FASTEST_MESHES = 4  # so many are looked at with every remat and batch


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
    """Propose configs that fit, the one with most tokens a second first.

    The batch is the config's, or the next larger one that the devices can share; it is cut into micro-batches, which
    change no number, where memory asks for it. Every mesh is planned with the least memory that it can do with, and the
    fastest of those that fit with every remat and number of micro-batches.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.
        config: the stage's; its mesh, micro-batches and remat are what is looked for.
        hardware: from ``parallel.hardware.hardware``.
        sizes: those of the models, as ``plan`` takes them.

    Returns:
        The proposals; none where no mesh has the memory.

    Example:
        >>> from rlhf_jax.parallel.hardware import hardware
        >>> from rlhf_jax.stages import SFTConfig
        >>> best = search("sft", SFTConfig(), hardware("h100x2"))[0]
        >>> best.plan.fits, best.options
        (True, '--mesh data=2,fsdp=1,tensor=1 --rows 32 --micro-batches 1 --remat none')
    """

    def planned(config: PackedConfig | OnlineConfig) -> Proposal:
        return Proposal(config, plan(stage, config, hardware, sizes=sizes))

    smallest = (planned(_leanest(config, mesh)) for mesh in meshes(hardware.devices))
    fitting = _fastest(found for found in smallest if found.plan.fits)
    every = itertools.chain.from_iterable(_variants(found.config) for found in fitting[:FASTEST_MESHES])
    return _fastest(found for found in map(planned, every) if found.plan.fits)


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


def _fastest(found: Iterator[Proposal]) -> list[Proposal]:
    return sorted(found, key=lambda proposal: -proposal.tokens_per_second)


def _shared(config: Config, mesh: MeshConfig) -> Config:
    """Give a config the mesh, and the smallest batch of at least its own that the mesh's devices can share."""
    shares = mesh.data * mesh.fsdp
    if isinstance(config, PackedConfig):
        return dataclasses.replace(config, mesh=mesh, rows=-(-config.rows // shares) * shares, micro_batches=1)
    unit = math.lcm(shares, config.minibatches)
    return dataclasses.replace(config, mesh=mesh, prompts=-(-config.prompts // unit) * unit, micro_batches=1)


def _cuts(config: PackedConfig | OnlineConfig) -> list[int]:
    """List numbers of micro-batches whose parts the devices can still share."""
    shares = config.mesh.data * config.mesh.fsdp
    if isinstance(config, PackedConfig):
        most = config.rows // shares
    else:
        most = max(config.prompts // config.minibatches // shares, 1)
    return [n for n in _powers(most) if most % n == 0]


def _leanest(config: Config, mesh: MeshConfig) -> Config:
    shared = _shared(config, mesh)
    return dataclasses.replace(shared, micro_batches=_cuts(shared)[-1], remat="block")


def _variants(config: Config) -> Iterator[Config]:
    every: tuple[Remat, ...] = get_args(Remat)
    for remat, cuts in itertools.product(every, _cuts(config)):
        yield dataclasses.replace(config, remat=remat, micro_batches=cuts)
