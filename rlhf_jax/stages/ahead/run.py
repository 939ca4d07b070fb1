"""``compile_ahead``: every program of a stage for a mesh of devices that need not be there."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.parallel.limits import Limits, known
from rlhf_jax.parallel.topologies import Topology
from rlhf_jax.stages.ahead.compiler import Compiler, DoesNotFit
from rlhf_jax.stages.ahead.figures import Ahead
from rlhf_jax.stages.ahead.online import Sizes, compile_online
from rlhf_jax.stages.ahead.packed import compile_packed
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.online.config import OnlineConfig, PTXConfig
from rlhf_jax.stages.online.trainer import OnlineTrainer
from rlhf_jax.stages.profile.models import PROMPT, NoText, own_critic, scoring_model, starting_model
from rlhf_jax.stages.profile.packed import packed_work
from rlhf_jax.stages.sft import SFTConfig

_UNKNOWN = Limits(1.0, 1.0, "not known")


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
        "limits": known(device.device_kind) or _UNKNOWN,
        "links": 0.0 if topology is None else topology.chip.links,
        "hlo": hlo,
        "tell": tell,
    }
    if isinstance(config, SFTConfig) and sizes is not None:
        config = dataclasses.replace(config, model=sizes, vocab_size=sizes.vocab_size)
    if isinstance(config, PackedConfig):
        work = packed_work(config, sizes or ModelConfig(), mesh, shapes=True)
        program = work.program
        held: Any = (program.state, program.trunks, program.reference)
        compiler = Compiler(mesh, held=held, **how)
        with contextlib.suppress(DoesNotFit):  # which the compiler notes
            compile_packed(config, work, compiler)
        trained = models_of(program.state.params, program.trunks)
    else:
        compiler, held, trained = _online(config, sizes or ModelConfig(), mesh, how)
    return Ahead(
        stage=stage,
        topology="" if topology is None else topology.name,
        device=device.device_kind,
        mesh=dict(mesh.shape),
        device_memory=0 if topology is None else topology.chip.memory,
        limits=how["limits"],
        held=parallel.device_bytes(held),
        parameters=sum(x.size for x in jax.tree.leaves(trained)),
        programs=tuple(compiler.programs),
        refused=compiler.refused,
        versions=_versions(),
    )


def models_of(trained: Any, frozen: Any) -> Any:
    """Join what is trained with the trunks that it stands on, by role."""
    return {role: models.join(own, frozen.get(role, {})) for role, own in trained.items()}


def _online(config: OnlineConfig, sizes: ModelConfig, mesh: Mesh, how: dict[str, Any]) -> tuple[Compiler, Any, Any]:
    config = dataclasses.replace(config, ptx=PTXConfig())
    columns = config.max_prompt_length or PROMPT
    policy, _ = starting_model(
        config.policy, config.lora, sizes, mesh=mesh, seed=config.seed, remat=config.remat, shapes=True
    )
    tokenizer: Any = NoText(policy.config.vocab_size)
    reward = scoring_model("", policy, tokenizer, mesh)
    trainer = OnlineTrainer(
        config, policy=policy, tokenizer=tokenizer, reward=reward, prompt_columns=columns, mesh=mesh
    )
    state = trainer.init()
    held = (state.train, trainer.frozen, trainer.sampler.reference, trainer.reward.params)
    compiler = Compiler(mesh, held=held, **how)
    critic = own_critic(config, policy, reward, trainer)
    sizes_of = Sizes(policy.config, reward.config, critic)
    with contextlib.suppress(DoesNotFit):
        compile_online(config, trainer, state, sizes_of, columns, compiler)
    return compiler, held, trainer.with_trunk(state.train.params)["policy"]


def _versions() -> dict[str, str]:
    """Name the versions that compiled."""
    names = ("jax", "jaxlib", *(("libtpu",) if importlib.util.find_spec("libtpu") else ()))
    return {name: importlib.metadata.version(name) for name in names}
