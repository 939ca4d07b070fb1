"""``compile_ahead`` and ``compile_for``: every program of a stage for devices that need not be there."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.parallel.limits import known
from rlhf_jax.parallel.topologies import Topology, topology_devices
from rlhf_jax.stages.ahead.compiler import Compiler, DoesNotFit
from rlhf_jax.stages.ahead.figures import Ahead
from rlhf_jax.stages.ahead.online import compile_online, online_work
from rlhf_jax.stages.ahead.packed import compile_packed, packed_shapes
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.online.config import OnlineConfig


def compile_ahead(
    stage: str,
    config: PackedConfig | OnlineConfig,
    *,
    mesh: Mesh,
    sizes: ModelConfig | None = None,
    topology: Topology | None = None,
    hlo: Path | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> Ahead:
    """Compile the programs of a stage from shapes: no weight is made, and nothing is run.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.
        config: the stage's; batches are full, and responses as long as they may be.
        mesh: devices, of this machine or of a topology.
        sizes: those of the models; by default the quickstart's, and for SFT ``config.model``.
        topology: what the mesh's devices are a description of.
        hlo: a folder for the compiled programs' texts.
        tell: told of each program before it is compiled.

    Returns:
        What every program takes. Where the compiler refuses one, ``refused`` names it, and those after it are missing.
    """
    device = mesh.devices.flat[0]
    how: dict[str, Any] = {
        "limits": known(device.device_kind),
        "links": 0.0 if topology is None else topology.chip.links,
        "hlo": hlo,
        "tell": tell,
    }
    trained: Any
    held: Any
    if isinstance(config, PackedConfig):
        packed = packed_shapes(config, sizes, mesh)
        program = packed.program
        held = (program.state, program.trunks, program.reference)
        compiler = Compiler(mesh, held=held, **how)
        with contextlib.suppress(DoesNotFit):  # which the compiler notes
            compile_packed(config, packed, compiler)
        trained = models_of(program.state.params, program.trunks)
    else:
        online = online_work(config, sizes or ModelConfig(), mesh)
        compiler = Compiler(mesh, held=online.held, **how)
        with contextlib.suppress(DoesNotFit):
            compile_online(online, compiler)
        trained = online.trainer.with_trunk(online.state.train.params)["policy"]
    return Ahead(
        stage=stage,
        topology="" if topology is None else topology.name,
        device=device.device_kind,
        mesh=dict(mesh.shape),
        device_memory=0 if topology is None else topology.chip.memory,
        limits=how["limits"],
        held=parallel.device_bytes(list(compiler.held.values())),
        parameters=sum(x.size for x in jax.tree.leaves(trained)),
        programs=tuple(compiler.programs),
        refused=compiler.refused,
        versions=_versions(),
    )


def compile_for(
    topology: Topology,
    stage: str,
    config: PackedConfig | OnlineConfig,
    *,
    sizes: ModelConfig | None = None,
    hlo: Path | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> Ahead:
    """Compile the programs of a stage for all chips of a slice that need not be there, on the config's mesh.

    Args:
        topology: the slice.
        stage: as ``compile_ahead`` takes it, like all that follows.
        config: the stage's.
        sizes: those of the models.
        hlo: a folder for the compiled programs' texts.
        tell: told of each program before it is compiled.

    Raises:
        ValueError: libtpu is not installed or does not know the slice, or the mesh does not fit it.
    """
    mesh = parallel.make_mesh(config.mesh, topology_devices(topology))
    return compile_ahead(stage, config, mesh=mesh, sizes=sizes, topology=topology, hlo=hlo, tell=tell)


def models_of(trained: Any, frozen: Any) -> Any:
    """Join what is trained with the trunks that it stands on, by role."""
    return {role: models.join(own, frozen.get(role, {})) for role, own in trained.items()}


def _versions() -> dict[str, str]:
    """Name the versions that compiled."""
    names = ("jax", "jaxlib", *(("libtpu",) if importlib.util.find_spec("libtpu") else ()))
    return {name: importlib.metadata.version(name) for name in names}
