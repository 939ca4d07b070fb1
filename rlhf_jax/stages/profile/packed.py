"""A profile of the stages on packed rows (``sft``, ``reward``, ``preference``): their steps, on full rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel
from rlhf_jax.data import Example
from rlhf_jax.data.batches import Batches, MemberBatches, PackedEpochs, micro_batched
from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.parallel.limits import limits
from rlhf_jax.runs.loading import with_remat
from rlhf_jax.stages.choose import choose_objective
from rlhf_jax.stages.config import PackedConfig, parks_policy
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.preference import PreferenceBatches, PreferenceConfig, with_reference
from rlhf_jax.stages.profile.figures import Laps, Phase, Profile, peak_memory, repeated
from rlhf_jax.stages.profile.models import chosen_kernels, starting_model
from rlhf_jax.stages.reward_model import RewardConfig, ensemble_loss, own_fields, stacked_members
from rlhf_jax.stages.sft import SFTConfig, computed_as
from rlhf_jax.stages.train import Program, compile_step


class PackedWork(NamedTuple):
    """A stage that is ready to take steps."""

    program: Program
    batches: Batches
    trained: ModelConfig
    copies: int  # models that are trained side by side
    also: float  # FLOPs of a step beside the trained models', those of a reference


def profile_packed(
    stage: str,
    config: PackedConfig,
    *,
    random: ModelConfig | None = None,
    repeats: int = 3,
    trace: Path | None = None,
    mesh: Mesh | None = None,
) -> Profile:
    """Take a few steps on rows full of random tokens, and measure them.

    The model is that of the run folder or checkpoint that the config names; where there is none, weights are random.

    Args:
        stage: ``sft``, ``reward`` or ``preference``.
        config: the stage's; sequences are ``data.max_length`` tokens long, and half of each is the response.
        random: sizes of the model with random weights; SFT takes ``config.model``.
        repeats: steps that are measured, after two that compile.
        trace: a folder for a trace that Perfetto reads.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        Phases ``update``, the step (with the reference's forward pass in ``preference``), and ``host``, which makes the
        next batch.
    """
    mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
    laps, key = Laps(), jax.random.key(config.seed)
    work = packed_work(config, random or ModelConfig(), mesh)
    box = [work.program.state]

    def iterate(number: int) -> None:
        laps.start()
        batch = work.batches[number % len(work.batches)]
        laps.lap("host", ())
        box[0], metrics = work.program.step(box[0], batch, jax.random.fold_in(key, number))
        laps.lap("update", (box[0], metrics))

    compilations = repeated(iterate, laps, repeats, trace)
    device = mesh.devices.flat[0]
    most, count, length = limits(device), mesh.devices.size, config.data.max_length
    tokens = config.rows * (config.row_length // length) * length
    logits = None if work.trained.scalar_head else tokens / 2
    flops = work.copies * costs.train_flops(work.trained, tokens, length, logits=logits) + work.also
    peak, of = peak_memory(device)
    total = work.copies * tokens
    return Profile(
        stage=stage,
        device=device.device_kind,
        devices=count,
        limits=most,
        work=f"{config.rows} rows of {config.row_length} tokens, full of sequences of {length}"
        + (f", in {config.micro_batches} parts" if config.micro_batches > 1 else "")
        + (f"; {work.copies} models" if work.copies > 1 else ""),
        phases=(
            Phase("update", laps.best["update"], total, flops, flops / (count * most.flops)),
            Phase("host", laps.best["host"]),
        ),
        compile_seconds=compilations.seconds,
        programs=compilations.programs,
        read_back=compilations.read_back,
        peak_bytes=peak,
        peak_of=of,
        kernels=chosen_kernels(work.trained, config.row_length, mesh),
        trace="" if trace is None else str(trace),
    )


def packed_work(config: PackedConfig, random: ModelConfig, mesh: Mesh, *, shapes: bool = False) -> PackedWork:
    """Build model, objective and full batches, as the config's stage does.

    Args:
        config: the stage's.
        random: sizes of the model with random weights; SFT takes ``config.model``.
        mesh: devices.
        shapes: make no weights, only their shapes: the step can be compiled, for devices that are not there, and not
            run.
    """
    if isinstance(config, SFTConfig):
        asked = with_remat(dataclasses.replace(config.model, vocab_size=config.vocab_size), config.remat)
        start, tokenizer = starting_model(config.init, config.lora, asked, mesh=mesh, seed=config.seed, shapes=shapes)
        sizes = computed_as(asked, start.config)
        bound = choose_objective(None, config.objective, config.hyperparameters)
        loss_fn = make_loss_fn(bound, {"policy": models.build(sizes)})
        return _compiled(config, loss_fn, {"policy": start.params}, sizes, tokenizer.pad_id, 1, mesh)
    if isinstance(config, RewardConfig):
        start, tokenizer = starting_model(
            config.init,
            config.lora,
            random,
            mesh=mesh,
            seed=config.seed,
            remat=config.remat,
            layers=config.layers,
            scores=True,
            shapes=shapes,
        )
        sizes = dataclasses.replace(start.config, scalar_head=True)
        bound = choose_objective(None, config.objective, config.hyperparameters, own_fields(config))
        loss_fn = make_loss_fn(bound, {"reward": models.build(sizes)})
        if config.members > 1:
            loss_fn = ensemble_loss(loss_fn)
            params = parallel.made_of(lambda x: stacked_members(x, sizes, config), start.params)
        else:
            params = parallel.made_of(lambda x: models.with_scalar_head(x, sizes), start.params)
        trained = {"reward": params}
        return _compiled(config, loss_fn, trained, sizes, tokenizer.pad_id, 2, mesh)
    if isinstance(config, PreferenceConfig):
        start, tokenizer = starting_model(
            config.policy, config.lora, random, mesh=mesh, seed=config.seed, remat=config.remat, shapes=shapes
        )
        bound = choose_objective(None, config.objective, config.hyperparameters)
        loss_fn = with_reference(bound, models.build(start.config))
        return _compiled(config, loss_fn, {"policy": start.params}, start.config, tokenizer.pad_id, 2, mesh)
    raise TypeError(f"there is no profile for a {type(config).__name__}")


def _compiled(
    config: PackedConfig, loss_fn: Any, params: Any, sizes: ModelConfig, pad_id: int, responses: int, mesh: Mesh
) -> PackedWork:
    members = config.members if isinstance(config, RewardConfig) and config.members > 1 else 0
    shape = config.packing(pad_id)
    examples = _examples(config, sizes.vocab_size, responses)
    batches: Any = PackedEpochs(lambda _: examples, epochs=1, **shape)
    frozen, also, optimizer, parked = None, 0.0, config.optimizer, False  # type: ignore[attr-defined]
    if members:
        batches = MemberBatches([lambda _: examples] * members, epochs=1, **shape)
    if isinstance(config, PreferenceConfig):
        batches, parked = PreferenceBatches(batches, **shape), parks_policy(config.offload, config.lora)
        frozen = {"policy": parallel.made_of(models.adapter_off, params["policy"])}
        tokens = config.rows * (config.row_length // config.data.max_length) * config.data.max_length
        also = costs.forward_flops(sizes, tokens, config.data.max_length, logits=tokens / 2)
    batches = micro_batched(batches, config.micro_batches)
    program = compile_step(
        config,
        loss_fn=loss_fn,
        params=params,
        optimizer=optimizer,
        batches=batches,
        mesh=mesh,
        frozen=frozen,
        parked=parked,
        members=members,
    )
    return PackedWork(program, batches, sizes, members or 1, also)


def _examples(config: PackedConfig, vocabulary: int, responses: int) -> list[Example]:
    """Draw groups of sequences that fill two batches to the last row."""
    length = config.data.max_length
    rng = np.random.default_rng(config.seed)
    groups = -(-2 * config.rows * (config.row_length // length) // responses)
    votes = np.array([[0.0, 3.0], [1.0, 0.0]], np.float32) if responses == 2 else None

    def tokens() -> tuple[np.ndarray, ...]:
        return tuple(rng.integers(1, vocabulary, length, dtype=np.int32) for _ in range(responses))

    return [Example(tokens(), (length // 2,) * responses, votes) for _ in range(groups)]
