"""``plan``: a stage on hardware, without a device, a weight or a compiler."""

from __future__ import annotations

import dataclasses

from rlhf_jax.models import ModelConfig
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.parallel.hardware import Hardware, planned_mesh
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.online.config import OnlineConfig
from rlhf_jax.stages.plan.figures import Plan, Run
from rlhf_jax.stages.plan.online import plan_online
from rlhf_jax.stages.plan.packed import Planned, plan_packed
from rlhf_jax.stages.profile.models import PROMPT
from rlhf_jax.stages.sft import SFTConfig, sized


def chosen_mesh(config: MeshConfig, devices: int) -> MeshConfig:
    """Keep a mesh that somebody asked for; the default one, on several devices, shares the weights among all of them.

    Example:
        >>> chosen_mesh(MeshConfig(), 8), chosen_mesh(MeshConfig(tensor=2), 8)
        (MeshConfig(data=1, fsdp=8, tensor=1), MeshConfig(data=-1, fsdp=1, tensor=2))
    """
    return MeshConfig(data=1, fsdp=devices) if config == MeshConfig() and devices > 1 else config


def plan(
    stage: str,
    config: PackedConfig | OnlineConfig,
    hardware: Hardware,
    *,
    sizes: ModelConfig | None = None,
    run: Run | None = None,
) -> Plan:
    """Work out what a stage takes: memory by part, the least time of each phase, and hours and cost of the run.

    Batches are full, and responses as long as they may be. Matrix products, bytes of memory and bytes sent are counted,
    and a phase takes as long as the slowest of the three at the data sheet's figures. Latency, the host, evaluations,
    checkpoints and compilation are not counted.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.
        config: the stage's; its mesh is used as it is.
        hardware: from ``parallel.hardware.hardware``.
        sizes: those of the models; by default the quickstart's, and for SFT ``config.model``.
        run: how long the run is, what part of the roofline it reaches, and a price.

    Raises:
        ValueError: the mesh does not fit the devices, or ``run.tokens`` is given to a stage that samples.

    Example:
        >>> from rlhf_jax.parallel.hardware import hardware
        >>> from rlhf_jax.stages import SFTConfig
        >>> found = plan("sft", SFTConfig(), hardware("h100x1"), run=Run(steps=100, price=2.0))
        >>> found.fits, found.phases[0].name, found.cost == 2.0 * found.hours
        (True, 'update', True)
    """
    run = run or Run()
    mesh = planned_mesh(config.mesh, hardware)
    if isinstance(config, SFTConfig) and sizes is not None:
        config = dataclasses.replace(config, model=sized(config.model, sizes), vocab_size=sizes.vocab_size)
    if isinstance(config, OnlineConfig):
        if run.tokens:
            raise ValueError(f"tokens: {stage} samples its own; say how many iterations by steps")
        found = plan_online(config, sizes or ModelConfig(), mesh, hardware)
        steps, responses = run.steps or config.iterations, config.prompts * config.samples
    else:
        found = plan_packed(config, sizes or ModelConfig(), mesh, hardware)
        # Every member of an ensemble sees the tokens, in rows of its own.
        tokens = config.rows * (config.row_length // config.data.max_length) * config.data.max_length
        steps, responses = run.steps or -(-run.tokens // tokens), 0
    return Plan(
        stage=stage,
        hardware=hardware,
        mesh=dict(mesh.shape),
        parameters=found.parameters,
        held=found.held,
        phases=found.phases,
        work=_work(config, found.models[0]),
        unit="iteration" if isinstance(config, OnlineConfig) else "update",
        tokens=found.tokens,
        responses=responses,
        steps=steps,
        run=run,
        notes=_notes(config, found, sizes, dict(mesh.shape)),
    )


def _work(config: PackedConfig | OnlineConfig, model: ModelConfig) -> str:
    """Say what one update or iteration is, in a line."""
    how = f"remat {model.remat}, {model.compute_dtype}"
    if isinstance(config, OnlineConfig):
        prompt, new = config.max_prompt_length or PROMPT, config.sampling.max_new_tokens
        responses = f"{config.prompts} prompts of {prompt} tokens, {config.samples} x {new} tokens to each"
        return f"{responses}, {config.epochs} x {config.minibatches} updates, {how}"
    parts = f"in {config.micro_batches} parts, " if config.micro_batches > 1 else ""
    return f"{config.rows} rows of {config.row_length} tokens, samples of {config.data.max_length}, {parts}{how}"


def _notes(
    config: PackedConfig | OnlineConfig, found: Planned, sizes: ModelConfig | None, mesh: dict[str, int]
) -> tuple[str, ...]:
    notes, shares, tensor = [], mesh["data"] * mesh["fsdp"], mesh["tensor"]
    if sizes is None and (not isinstance(config, SFTConfig) or config.init):
        said = "model.* says" if isinstance(config, SFTConfig) else "the quickstart's model has"
        notes.append(f"no checkpoint is read, and no sizes were given: they are those that {said}")
    if isinstance(config, OnlineConfig):
        name, rows = "prompts", config.prompts
    else:
        name, rows = "rows of a part", config.rows // config.micro_batches
    if rows % shares:
        notes.append(
            f"{name} ({rows}) cannot be divided among the {shares} devices of data and fsdp: each does all of them"
        )
    for one in dict.fromkeys(found.models):
        parts = {"vocabulary": one.vocab_size, "key heads": one.n_kv_heads, "MLP": one.d_ff}
        whole = [f"{name} ({size})" for name, size in parts.items() if size % tensor]
        if whole:
            said = ", ".join(whole)
            notes.append(f"tensor ({tensor}) does not divide {said}: every device along it has all of that work")
    if any(one.compute_dtype == "float32" for one in found.models):
        notes.append("compute_dtype is float32, and the FLOP/s of the data sheet are those of bfloat16: take bfloat16")
    if config.lora.rank:
        others = "critic, reference and reward model" if isinstance(config, OnlineConfig) else "a reference"
        notes.append(f"adapters: {others} would stand on the same trunk")
    if isinstance(config, OnlineConfig):
        notes.append("reward model: as large as the policy; every response is of full length")
        if not config.max_prompt_length:
            notes.append("max_prompt_length is 0, the longest prompt there is: 64 tokens are taken")
        if config.ptx.coef:
            notes.append("pretraining text (ptx) is left out")
    return tuple(notes)
