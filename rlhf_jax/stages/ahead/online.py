"""An iteration of PPO or a group method, compiled from shapes: sampling, scoring, preparing, the update."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import parallel
from rlhf_jax.data.blocks import BlockPlan, BlockShape, lay_out
from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.rollout.generate import as_rollout
from rlhf_jax.rollout.programs import STRIDE
from rlhf_jax.rollout.slots import refilled, row_shards
from rlhf_jax.stages.ahead.compiler import Compiler
from rlhf_jax.stages.ahead.figures import Work
from rlhf_jax.stages.ahead.packed import train_flops
from rlhf_jax.stages.blocks import shape_of
from rlhf_jax.stages.online.beside import check_one_mesh
from rlhf_jax.stages.online.config import OnlineConfig, PTXConfig
from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer
from rlhf_jax.stages.profile.models import PROMPT, NoText, own_critic, scoring_model, starting_model
from rlhf_jax.types import Rollout, SequenceBatch

LIVE = np.int32(0)  # a window goes on while more rows than these live


class Sizes(NamedTuple):
    """The models of an iteration, for counting their work."""

    policy: ModelConfig
    reward: ModelConfig
    critic: ModelConfig | None  # None: there is none, or it is a head on the policy


class OnlineWork(NamedTuple):
    """An online stage as shapes: everything is laid out on the mesh, and nothing is there."""

    config: OnlineConfig
    trainer: OnlineTrainer
    state: OnlineState
    sizes: Sizes
    columns: int  # tokens of a prompt

    @property
    def held(self) -> tuple[Any, ...]:
        """Models and optimisers, which lie on the devices all the time."""
        reward: Any = self.trainer.reward.params
        return self.state.train, self.trainer.frozen, self.trainer.sampler.held_reference, reward


def online_work(config: OnlineConfig, sizes: ModelConfig, mesh: Mesh) -> OnlineWork:
    """Build the trainer of ``ppo`` or ``group`` from shapes, without its pretraining text.

    Args:
        config: the stage's.
        sizes: those of the policy, and of the models beside it.
        mesh: devices, which need not be there.

    Raises:
        RunError: the config has a rollout mesh as well.
    """
    check_one_mesh(config)
    config = dataclasses.replace(config, ptx=PTXConfig(), sampling=dataclasses.replace(config.sampling, stop=()))
    columns = config.max_prompt_length or PROMPT
    policy, _ = starting_model(
        config.policy, config.lora, sizes, mesh=mesh, seed=config.seed, remat=config.remat, shapes=True
    )
    tokenizer: Any = NoText(policy.config.vocab_size)
    reward = scoring_model("", policy, tokenizer, mesh)
    trainer = OnlineTrainer(
        config, policy=policy, tokenizer=tokenizer, reward=reward, prompt_columns=columns, mesh=mesh
    )
    of_models = Sizes(policy.config, reward.config, own_critic(config, policy, reward, trainer))
    return OnlineWork(config, trainer, trainer.init(), of_models, columns)


def compile_online(work: OnlineWork, compiler: Compiler) -> None:
    """Compile the programs of one iteration, in the order in which they run; every response is of full length.

    Args:
        work: from ``online_work``.
        compiler: for its mesh.
    """
    config, trainer, state, sizes, columns = work
    sampled = _sampling(config, trainer, state, sizes, columns, compiler)
    length, count = columns + config.sampling.max_new_tokens, config.prompts * config.samples
    tokens, new = float(count * length), float(count * config.sampling.max_new_tokens)

    def scored(model: ModelConfig) -> float:
        return costs.forward_flops(model, tokens, length, logits=0 if model.scalar_head else new)

    rows, sampler = row_shapes(trainer, sampled), trainer.sampler
    critic = 0.0 if sizes.critic is None else scored(sizes.critic)
    arguments: Any = (state.train.params, trainer.frozen, rows)
    blocks = rows.tokens.shape[0]
    known = Work(scored(sizes.policy) + critic, tokens=tokens, turns=blocks)
    out = compiler("log-probabilities", trainer.passes_program, arguments, known)
    arguments = (sampler.reference, rows)
    asked = Work(scored(sizes.policy), tokens=tokens, turns=blocks)
    reference = compiler("reference", sampler.logprobs, arguments, asked)
    arguments = (parallel.bring(trainer.reward.params), rows)
    asked = Work(scored(sizes.reward), tokens=tokens, turns=blocks)
    scores = compiler("score", trainer.reward.program, arguments, asked)
    arguments = (state.controller.coef, state.moments, sampled, out, reference, scores)
    batch, _ = compiler("prepare", trainer.prepare_program, arguments, Work(tokens=tokens))
    _update(config, trainer, state, sizes, batch, compiler)


def _sampling(
    config: OnlineConfig, trainer: OnlineTrainer, state: OnlineState, sizes: Sizes, columns: int, compiler: Compiler
) -> Rollout:
    samples, new = config.samples, config.sampling.max_new_tokens
    programs, placed = trainer.sampler.engine.programs, trainer.sampler.sharding(config.prompts)
    count = config.prompts * samples
    policy = trainer.with_trunk(state.train.params)["policy"]
    laid = compiler("lay out", programs.lay_out, (policy,), Work(), static={"sharding": placed})
    width = {"columns": columns + new, "sharding": placed}
    arguments: Any
    if config.sampling.slots:
        # Prompts go into rows that have ended, a group of them at a time.
        at_once = min(config.sampling.slots, count)
        group = refilled(config.sampling.slots, samples, row_shards(placed))[1]
        arguments = (laid, *prompt_shapes(group, columns, placed))
        compiler("prefill", programs.prefill, arguments, _prefilled(sizes, group, columns), static={"sharding": placed})
        begun = compiler("empty rows", programs.empty, (row_keys(trainer, at_once),), Work(), static=width)
    else:
        at_once = count
        arguments = (laid, *prompt_shapes(config.prompts, columns, placed), row_keys(trainer, count))
        work = _prefilled(sizes, config.prompts, columns)
        begun = compiler("prefill", programs.start, arguments, work, static={"samples": samples, **width})
    window = min(config.sampling.window, new)
    filled = (columns + new / 2) / (columns + new)  # this part of the cache is, on average over a response
    read = window * (parallel.device_bytes(laid) + filled * parallel.device_bytes(begun.cache))
    flops = costs.decode_flops(sizes.policy, at_once, columns + new / 2, window)
    work = Work(flops, read, at_once * window, turns=-(-window // STRIDE))
    last = compiler(f"decode {window} tokens", programs.window, (laid, begun, LIVE), work, static={"sharding": placed})
    every = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype),
        (last.tokens, last.logprobs, last.written, last.finished),
    )
    return rollout_shapes(config, trainer, columns, every)


def _prefilled(sizes: Sizes, prompts: int, columns: int) -> Work:
    return Work(costs.forward_flops(sizes.policy, prompts * columns, columns, logits=prompts), tokens=prompts * columns)


def prompt_shapes(prompts: int, columns: int, placed: jax.sharding.Sharding) -> tuple[Any, Any]:
    """Make the shapes of prompts, [B, P], and of their lengths, [B]."""
    tokens = jax.ShapeDtypeStruct((prompts, columns), jnp.int32, sharding=placed)
    return tokens, jax.ShapeDtypeStruct((prompts,), jnp.int32, sharding=placed)


def row_keys(trainer: OnlineTrainer, rows: int) -> Any:
    """Make the shape of the keys of so many rows, [N]."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    return parallel.shaped(keys, trainer.sampler.sharding(rows))


def rollout_shapes(config: OnlineConfig, trainer: OnlineTrainer, columns: int, drawn: tuple[Any, ...]) -> Rollout:
    """Make the shapes of what is sampled in an iteration.

    Args:
        config: the stage's.
        trainer: made of shapes.
        columns: tokens of a prompt.
        drawn: tokens, log-probabilities, numbers of tokens and ends of all responses.
    """
    gather = functools.partial(as_rollout, samples=config.samples)
    prompts = prompt_shapes(config.prompts, columns, trainer.sampler.sharding(config.prompts))
    found = jax.eval_shape(gather, *prompts, *drawn)
    return parallel.shaped(found, parallel.batch_shardings(found, trainer.mesh))


def row_shapes(trainer: OnlineTrainer, sampled: Rollout) -> Any:
    """Shapes of the packed rows of a rollout; the program that lays them does nothing but copy."""
    mesh, maker = trainer.mesh, trainer.sampler.rows
    count = sampled.tokens.shape[0] * sampled.tokens.shape[1]
    shape = shape_of(mesh, count, 1, sampled.tokens.shape[-1], gradients=False)
    starts = jax.ShapeDtypeStruct(sampled.tokens.shape[:2], jnp.int32)
    found = jax.eval_shape(
        functools.partial(maker.program, shape=shape), sampled, starts, jax.ShapeDtypeStruct((), jnp.int32)
    )
    by_response = parallel.batch_shardings((found.places, found.real), mesh)
    placed = parallel.shaped(found, parallel.batch_shardings(found, mesh, batch_axis=1))
    places, real = parallel.shaped((found.places, found.real), by_response)
    return placed._replace(places=places, real=real, used=parallel.shaped(found.used, parallel.replicated(mesh)))


def update_blocks(config: OnlineConfig, trainer: OnlineTrainer, length: int) -> BlockShape:
    """Choose the shape of the blocks that an update runs over, for sequences of at most this length."""
    share = config.prompts // config.minibatches
    return shape_of(trainer.mesh, share, config.samples, length, parts=config.micro_batches)


def _update(
    config: OnlineConfig,
    trainer: OnlineTrainer,
    state: OnlineState,
    sizes: Sizes,
    batch: SequenceBatch,
    compiler: Compiler,
) -> None:
    groups, responses, length = batch.tokens.shape
    shape = update_blocks(config, trainer, length)
    one = lay_out(np.full((groups // config.minibatches, responses), length), shape)
    count = config.epochs * config.minibatches
    plan = BlockPlan(*(np.stack([x] * count) for x in one))
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = float(groups * responses * length)
    flops = train_flops(sizes.policy, tokens, length)
    if sizes.critic is not None:
        flops += train_flops(sizes.critic, tokens, length)
    work = Work(config.epochs * flops, tokens=config.epochs * tokens, turns=shape.blocks)
    arguments = (state, trainer.frozen, batch._replace(packing=None), plan, None, key, shape)
    compiler("update", trainer.update_program, arguments, work)
