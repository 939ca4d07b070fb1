"""An iteration of PPO or a group method, planned from the trainer's models: rollout, scores, passes, the update."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import AbstractMesh

from rlhf_jax import models, parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.parallel.hardware import Hardware
from rlhf_jax.stages.blocks import shape_of
from rlhf_jax.stages.online.beside import check_one_mesh
from rlhf_jax.stages.online.config import OnlineConfig, PTXConfig
from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer
from rlhf_jax.stages.plan.activations import Rows
from rlhf_jax.stages.plan.decoding import cache_bytes, decode_cost, laid_out, lay_out_cost, prefill_cost
from rlhf_jax.stages.plan.figures import PlannedPhase
from rlhf_jax.stages.plan.packed import Planned, gradient_bytes, together
from rlhf_jax.stages.plan.passes import Cost, forward_cost, update_cost
from rlhf_jax.stages.profile.models import PROMPT, NoText, own_critic, scoring_model, starting_model

# Bytes a token of what an iteration knows of its responses: tokens, positions and segments, two log-probabilities,
# values, advantages, returns and rewards in four bytes each, a mask in one.
TOKEN_BYTES = 9 * 4 + 1


def plan_online(config: OnlineConfig, sizes: ModelConfig, mesh: AbstractMesh, hardware: Hardware) -> Planned:
    """Plan one iteration in which every response is of full length; pretraining text is left out.

    Args:
        config: the stage's.
        sizes: those of the policy; the reward model and a critic of its own have the same.
        mesh: from ``planned_mesh``.
        hardware: its devices.

    Raises:
        RunError: the config has a rollout mesh as well.
    """
    check_one_mesh(config)
    config = dataclasses.replace(config, ptx=PTXConfig())
    made: Any = mesh
    policy, _ = starting_model(
        config.policy, config.lora, sizes, mesh=made, seed=config.seed, remat=config.remat, shapes=True
    )
    tokenizer: Any = NoText(policy.config.vocab_size)
    reward = scoring_model("", policy, tokenizer, made)
    columns = config.max_prompt_length or PROMPT
    trainer = OnlineTrainer(
        config, policy=policy, tokenizer=tokenizer, reward=reward, prompt_columns=columns, mesh=made
    )
    critic = own_critic(config, policy, reward, trainer)
    configs = {"policy": policy.config, **({} if critic is None else {"critic": critic})}
    iteration = _Iteration(config, trainer, configs, reward.config, mesh, hardware, columns)
    phases = (*iteration.rollout(), *iteration.passes(), iteration.update())
    parameters = sum(x.size for x in jax.tree.leaves(iteration.whole["policy"]))
    tokens = float(config.prompts * config.samples * config.sampling.max_new_tokens)
    return Planned(phases, parameters, sum(iteration.held.values()), tokens, (*configs.values(), reward.config))


class _Iteration:
    """An iteration's models and sizes, from which each of its phases is made.

    Args:
        config: the stage's.
        trainer: made of shapes.
        configs: sizes of the models that have weights of their own and are trained, by role.
        reward: sizes of the reward model.
        mesh: the devices.
        hardware: what they are.
        columns: tokens of a prompt.
    """

    def __init__(
        self,
        config: OnlineConfig,
        trainer: OnlineTrainer,
        configs: dict[str, ModelConfig],
        reward: ModelConfig,
        mesh: AbstractMesh,
        hardware: Hardware,
        columns: int,
    ):
        self.config, self.trainer, self.mesh, self.hardware, self.columns = config, trainer, mesh, hardware, columns
        self.configs, self.reward = configs, reward
        self.state: OnlineState = trainer.init()
        self.trained: Any = self.state.train.params
        self.whole: Any = trainer.with_trunk(self.trained)
        self.length = columns + config.sampling.max_new_tokens
        self.count = config.prompts * config.samples
        taken, train = parallel.device_bytes, self.state.train
        self.held = {f"{role}'s weights": taken(x) for role, x in self.trained.items()}
        # One trunk serves all: the critic, the reference and the reward model stand on the policy's.
        self.held["frozen trunk"] = taken(trainer.frozen["policy"])
        self.held["optimiser state"] = taken(train) - taken(train.params)
        self.parked = {
            "reference": taken(models.split(trainer.sampler.reference)[0]),
            "reward model": taken(models.split(parallel.bring(trainer.reward.params))[0]),
        }
        if config.offload == "none":
            self.held |= self.parked
        samples = self.count * self.length * TOKEN_BYTES
        self.samples = {"responses": samples // parallel.axis_size(mesh, parallel.BATCH)}

    def rollout(self) -> tuple[PlannedPhase, ...]:
        """Lay the weights out, prefill the prompts, write the tokens."""
        config, policy, sampling = self.config, self.configs["policy"], self.config.sampling
        laid = laid_out(policy, self.whole["policy"], sampling)
        at_once = min(sampling.slots or self.count, self.count)
        cache = {"cache": int(cache_bytes(policy, at_once, self.length, sampling, self.mesh))}
        held = {**self.held, "weights laid out": parallel.device_bytes(laid)}
        decode = decode_cost(policy, laid, self.count, self.columns, sampling, self.mesh)
        made = together(
            f"decode {sampling.max_new_tokens} tokens",
            [decode],
            1,
            held | cache | self.samples,
            self.hardware,
            tokens=float(self.count * sampling.max_new_tokens),
        )
        window = min(sampling.window, sampling.max_new_tokens)
        runs = -(-sampling.max_new_tokens // window) * (self.count // at_once)
        prompts = float(config.prompts * self.columns)
        prefill = prefill_cost(policy, laid, config.prompts, self.columns, self.mesh)
        return (
            together("lay out", [lay_out_cost(policy, self.whole["policy"], laid)], 1, held, self.hardware, tokens=0.0),
            together("prefill", [prefill], 1, held | cache, self.hardware, tokens=prompts),
            dataclasses.replace(made, runs=runs),
        )

    def passes(self) -> tuple[PlannedPhase, ...]:
        """Run policy and critic, the reference and the reward model over the responses, a block of rows at a time."""
        shape = shape_of(self.mesh, self.count, 1, self.length, gradients=False)
        rows = self._rows(shape, self.count)
        tokens = float(self.count * self.length)
        held = self.held | self.samples

        def phase(name: str, costs: list[Cost], *brought: str) -> PlannedPhase:
            there = held | {part: self.parked[part] for part in brought}
            return together(name, costs, shape.blocks, there, self.hardware, tokens=tokens)

        def one(sizes: ModelConfig, params: Any) -> Cost:
            return forward_cost(sizes, params, rows, self.mesh)

        policy = self.configs["policy"]
        return (
            phase("log-probabilities", [one(sizes, self.whole[role]) for role, sizes in self.configs.items()]),
            phase("reference", [one(policy, self.trainer.sampler.reference)], "reference"),
            phase("score", [one(self.reward, self.trainer.reward.params)], "reward model"),
        )

    def update(self) -> PlannedPhase:
        """Run all epochs and minibatches over the responses."""
        config, share = self.config, self.config.prompts // self.config.minibatches
        shape = shape_of(self.mesh, share, config.samples, self.length, parts=config.micro_batches)
        rows = self._rows(shape, share * config.samples)
        costs = [
            update_cost(sizes, self.whole[role], self.trained[role], rows, self.mesh)
            for role, sizes in self.configs.items()
        ]
        updates = config.epochs * config.minibatches
        # Blocks add their gradients to a sum, where there are several.
        gradients = gradient_bytes(self.trained) * (2 if shape.blocks > 1 else 1)
        return together(
            "update",
            costs,
            updates * shape.blocks,
            self.held | self.samples | {"gradients": gradients},
            self.hardware,
            tokens=float(config.epochs * self.count * self.length),
            stepped=(self.state.train, updates),
        )

    def _rows(self, shape: Any, sequences: int) -> Rows:
        """Describe one block, with its share of so many sequences."""
        each = sequences / shape.blocks
        targets = each * self.config.sampling.max_new_tokens
        return Rows(shape.rows, shape.row_length, each * self.length, self.length, targets)
