"""A profile of PPO and the group methods: the phases of an iteration, on the trainer that the stages run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import evaluation
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.models import ModelConfig, costs, members
from rlhf_jax.parallel.limits import Limits, limits
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.stages.online.beside import online_meshes
from rlhf_jax.stages.online.config import OnlineConfig, PTXConfig
from rlhf_jax.stages.online.sample_ahead import SampleAhead
from rlhf_jax.stages.online.trainer import OnlineTrainer
from rlhf_jax.stages.profile.figures import Laps, Phase, Profile, peak_memory, repeated
from rlhf_jax.stages.profile.models import (
    PROMPT,
    NoText,
    chosen_kernels,
    own_critic,
    scoring_model,
    starting_model,
)
from rlhf_jax.stages.scoring import LoadedModel
from rlhf_jax.types import Rollout


def profile_online(
    stage: str,
    config: OnlineConfig,
    *,
    random: ModelConfig | None = None,
    repeats: int = 3,
    trace: Path | None = None,
    mesh: Mesh | None = None,
) -> Profile:
    """Run a few iterations on prompts of random tokens, and measure their phases.

    The models are those of the run folders that the config names; where there are none, weights are random, and every
    response is as long as it may be. Pretraining text is left out.

    Args:
        stage: ``ppo`` or ``group``.
        config: the stage's.
        random: sizes of the models with random weights.
        repeats: iterations that are measured, after two that compile.
        trace: a folder for a trace that Perfetto reads. It shows one more iteration, or with ``staleness`` 1 two with
            nothing waited for.
        mesh: devices that train; by default ``config.mesh`` over all that a ``config.rollout_mesh`` leaves.

    Returns:
        Phases ``rollout``, ``score``, ``reference`` (log-probabilities of the policy and the reference, values,
        advantages), ``update`` and ``host`` (texts and descriptions of the responses).
    """
    mesh, apart = online_meshes(config, mesh)
    config = dataclasses.replace(config, ptx=PTXConfig(), iterations=max(config.iterations, 3))  # two are traced
    policy, tokenizer = starting_model(
        config.policy, config.lora, random or ModelConfig(), mesh=mesh, seed=config.seed, remat=config.remat
    )
    if isinstance(tokenizer, NoText):  # no token writes anything
        config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, stop=()))
    reward = scoring_model(config.reward_model, policy, tokenizer, mesh)
    columns = config.max_prompt_length or PROMPT
    trainer = OnlineTrainer(
        config,
        policy=policy,
        tokenizer=tokenizer,
        reward=reward,
        prompt_columns=columns,
        mesh=mesh,
    )
    drawn = np.random.default_rng(config.seed).integers(1, policy.config.vocab_size, (config.prompts, columns))
    prompts = [EncodedPrompt("", tokens, i) for i, tokens in enumerate(drawn.astype(np.int32))]
    laps, box, sampled_last = Laps(), [trainer.init()], list[Rollout]()

    def iterate(number: int) -> None:
        laps.start()
        sampled = trainer.collect(box[0], prompts, number)
        laps.lap("rollout", sampled)
        scores = trainer.reward(sampled, prompts)
        laps.lap("score", scores)
        batch, info = trainer.prepare(box[0], sampled, prompts, scores)
        laps.lap("reference", (batch, info))
        box[0], metrics = trainer.update(box[0], batch, number)
        laps.lap("update", (box[0], metrics))
        trainer.sampler.texts(sampled)
        evaluation.describe_responses(response_tokens(sampled), np.asarray(sampled.finished).reshape(-1))
        laps.lap("host", ())
        sampled_last[:] = [sampled]

    def in_turns(number: int) -> None:
        """Two iterations as the stage runs them, the second sampled beside the update of the first."""
        ahead = SampleAhead(trainer, lambda _: prompts)
        state = box[0]._replace(waiting=None)
        for step in (0, 1):
            sampled, _ = ahead.collect(state, step)
            batch, _ = trainer.prepare(state, sampled, prompts)
            state, _ = ahead.update(state, batch, step)
        box[0] = jax.block_until_ready(state)

    compilations = repeated(iterate, laps, repeats, trace, traced=in_turns if config.staleness else None)
    device = mesh.devices.flat[0]
    most, count = limits(device), mesh.devices.size
    sampling = count if apart is None else apart.devices.size
    lengths = np.asarray(sampled_last[0].mask).sum(-1).reshape(-1)
    peak, of = peak_memory(device)
    return Profile(
        stage=stage,
        device=device.device_kind,
        devices=count,
        limits=most,
        work=f"{config.prompts} prompts of {columns} tokens, {config.samples} responses each with {lengths.mean():.1f} "
        f"tokens on average; {config.epochs} epochs of {config.minibatches} minibatches",
        phases=_phases(config, policy, reward, trainer, columns, lengths, laps.best, most, (count, sampling)),
        compile_seconds=compilations.seconds,
        programs=compilations.programs,
        read_back=compilations.read_back,
        peak_bytes=peak,
        peak_of=of,
        kernels=chosen_kernels(policy.config, columns + config.sampling.max_new_tokens, mesh, decodes=True),
        trace="" if trace is None else str(trace),
    )


def _phases(
    config: OnlineConfig,
    policy: LoadedModel,
    reward: LoadedModel,
    trainer: OnlineTrainer,
    prompt: int,
    lengths: np.ndarray,
    seconds: dict[str, float],
    most: Limits,
    devices: tuple[int, int],
) -> tuple[Phase, ...]:
    """Say of every phase what it had to do: ``lengths`` are those of the responses, [B * K].

    ``devices`` are as many as train and as many as sample.
    """
    new, whole = float(lengths.sum()), [float(prompt + n) for n in lengths]
    total = sum(whole)
    flops_per_second = devices[0] * most.flops
    drawn_flops, drawn_bytes = devices[1] * most.flops, devices[1] * most.bandwidth

    def over(count: Any, model: ModelConfig) -> float:
        """Add up over the sequences, with the vocabulary's logits at the responses alone."""
        logits = [0.0 if model.scalar_head else float(n) for n in lengths]
        return sum(count(model, n, n, logits=read) for n, read in zip(whole, logits, strict=True))

    def limited(name: str, tokens: float, flops: float) -> Phase:
        return Phase(name, seconds[name], tokens, flops, flops / flops_per_second)

    prefill = costs.forward_flops(policy.config, config.prompts * prompt, prompt, logits=config.prompts)
    each, sizes = (len(lengths), prompt, new / max(len(lengths), 1)), _sizes(policy.config, config.sampling)
    decode, read = costs.decode_flops(policy.config, *each), costs.decode_bytes(policy.config, *each, **sizes)
    least = prefill / drawn_flops + max(decode / drawn_flops, read / drawn_bytes)
    critic = own_critic(config, policy, reward, trainer)
    scored = (members(reward.params) or 1) * over(costs.forward_flops, reward.config)
    known = 2 * over(costs.forward_flops, policy.config)
    trained = over(costs.train_flops, policy.config)
    if critic is not None:
        known += over(costs.forward_flops, critic)
        trained += over(costs.train_flops, critic)
    return (
        Phase("rollout", seconds["rollout"], new, prefill + decode, least),
        limited("score", total, scored),
        limited("reference", total, known),
        limited("update", config.epochs * total, config.epochs * trained),
        Phase("host", seconds["host"]),
    )


def _sizes(config: ModelConfig, sampling: SamplingConfig) -> dict[str, float]:
    """Bytes that the sampler holds a weight and a number of the cache in, where it holds any in 8 bits."""
    if sampling.int8 == "none":
        return {}
    matrices, head = costs.matrix_parameters(config), costs.head_parameters(config)
    wide = 2.0 if config.compute_dtype == "bfloat16" else 4.0
    cache = 1 + 4 / config.head_dim if sampling.int8 == "weights_and_cache" else wide  # float32 scales, one a column
    return {"weight_size": (matrices + wide * head) / (matrices + head), "cache_size": cache}
