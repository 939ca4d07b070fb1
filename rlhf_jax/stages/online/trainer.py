"""One iteration of training on the policy's own samples, as three steps that can be called by hand.

    trainer = OnlineTrainer(config, policy=..., tokenizer=..., reward=...)
    state = trainer.init()
    rollout = trainer.collect(state, prompts, step)
    batch, info = trainer.prepare(state, rollout, prompts)
    state, metrics = trainer.update(state, batch, step)

With a ``PPOConfig`` a critic, a model of its own or a head on the policy, gives every token an advantage; with a
``GroupConfig`` there is none, and the objective compares the K samples of a prompt. ``stages.ppo`` and ``stages.group``
run these steps in a loop.

The policy that is trained is the one that samples: sampler, ratio, reference, KL and entropy all speak of
``softmax(logits / config.sampling.temperature)``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models, objectives, parallel, processes, rewards, training
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.blocks import BlockPlan, BlockShape
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.models import ValueHead
from rlhf_jax.models.forward import forward
from rlhf_jax.rewards import Moments, TextReward
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.runs.loading import place
from rlhf_jax.stages.blocks import Rows, by_response, in_blocks, lengths_of, pack_block, shape_of
from rlhf_jax.stages.choose import GROUP, PPO, check_own, choose_objective, describe_objective, try_objective
from rlhf_jax.stages.config import is_one_of, parks_policy
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.online.beside import Beside, Waiting, online_meshes
from rlhf_jax.stages.online.config import OnlineConfig, PPOConfig, PPOLossConfig
from rlhf_jax.stages.online.critic import make_critic
from rlhf_jax.stages.online.gap import rounding
from rlhf_jax.stages.online.packing import make_order, padding, plan_updates
from rlhf_jax.stages.online.prepare import once, prepare_batch, response_kl
from rlhf_jax.stages.online.pretraining_text import pretraining_batches
from rlhf_jax.stages.optimizers import OwnOptimizer, choose_optimizer, try_optimizer
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.stages.scoring import LoadedModel, RolloutReward, Scores
from rlhf_jax.training import KLState, Metrics, Phases, TrainState
from rlhf_jax.types import Array, Aux, LossFn, Model, Objective, Outputs, Params, Rollout, SequenceBatch


class OnlineState(NamedTuple):
    """Everything that changes from one iteration to the next; this is what a checkpoint holds.

    Args:
        train: parameters by role, optimiser state and step. The roles are ``policy`` and, with a ``PPOConfig``,
            ``critic``, which may be no more than a ``head``. A model with adapters is here without its frozen trunk;
            ``OnlineTrainer.with_trunk`` joins them.
        controller: state of the controller of the KL coefficient.
        moments: mean and spread of the scores seen so far, which reward shaping may normalise by.
        waiting: with ``staleness`` 1 the responses that were sampled for the next iteration; None otherwise.
    """

    train: TrainState
    controller: KLState
    moments: Moments
    waiting: Waiting | None = None


class OnlineTrainer:
    """Trainer of a policy with a frozen reference, a reward and, for a ``PPOConfig``, a critic.

    Args:
        config: every hyperparameter.
        policy: where the policy starts; the reference is a frozen copy, or the same trunk with its adapter off.
        tokenizer: the policy's, which a reward model has to share.
        reward: a reward model (a ``LoadedModel`` with a scalar head, maybe an ensemble), or any callable
            ``(prompts, responses) -> numbers``.
        reference: parameters of another reference, of the policy's shape.
        objective: what ``config.objective`` names by default.
        optimizer: updates every role, with a state of its own, in place of what ``config`` says of optimisers.
        prompt_columns: prompts are padded to a multiple of this many; as many as the longest prompt needs, and one
            compiled program serves every iteration.
        mesh: devices that train; by default ``config.mesh`` over all of them, or over those that a
            ``config.rollout_mesh`` leaves, which has the last ones.
        phases: told what an iteration is doing.
    """

    def __init__(
        self,
        config: OnlineConfig,
        *,
        policy: LoadedModel,
        tokenizer: Tokenizer,
        reward: LoadedModel | TextReward,
        reference: Params | None = None,
        objective: Objective | None = None,
        optimizer: OwnOptimizer | None = None,
        prompt_columns: int = 8,
        mesh: jax.sharding.Mesh | None = None,
        phases: Phases | None = None,
    ):
        self.config = config
        self._phases = Phases() if phases is None else phases
        self.critic = config if isinstance(config, PPOConfig) else None
        self.mesh, apart = online_meshes(config, mesh)
        parked = parks_policy(config.offload, config.lora)
        policy = LoadedModel(policy.config, place(policy.params, self.mesh, parked=parked))
        self._policy, self._policy_config = models.build(policy.config), policy.config
        self.models: dict[str, Model | ValueHead] = {"policy": self._policy}
        starts = {"policy": policy.params}
        rules = {"policy": config.policy_optimizer}
        if self.critic is not None:
            self.models["critic"], starts["critic"] = make_critic(policy, reward, self.critic)
            rules["critic"] = self.critic.critic_optimizer
        for role, rule in rules.items():
            try_optimizer(optimizer, rule, {role: starts[role]})
        self.optimizer = training.by_role(
            {role: choose_optimizer(optimizer, rule, config.updates) for role, rule in rules.items()}
        )
        parts = {role: models.split(x) for role, x in starts.items()}
        self._initial = {role: place(own, self.mesh, parked=parked) for role, (own, _) in parts.items()}
        # Trunks under adapters are never donated; those that are the same arrays take memory once.
        self.frozen = {role: place(trunk, self.mesh) for role, (_, trunk) in parts.items()}
        self.sampler = Sampler(
            self._policy,
            tokenizer,
            config.sampling,
            reference=parallel.made_of(models.adapter_off, policy.params if reference is None else reference),
            mesh=self.mesh,
            seed=config.seed,
            prompt_columns=prompt_columns,
            parked=parked,
        )
        self.beside: Beside | None = None  # where sampling has devices of its own
        if apart is not None:
            self.beside = Beside(
                self._policy, tokenizer, config, trunk=self.frozen["policy"], mesh=apart, home=self.sampler
            )
        self.reward = RolloutReward(reward, self.sampler, config.ensemble, parked=config.offload == "frozen")
        self._text = pretraining_batches(config, tokenizer) if config.ptx.coef else None
        bound = choose_objective(objective, config.objective, config.hyperparameters, _loss_fields(config, objective))
        given = GROUP if self.critic is None else PPO
        try_objective(bound, config.objective, given, responses=config.samples)
        check_own(bound, config, given, responses=config.samples)
        self._loss = make_loss_fn(bound, self.models, temperature=config.sampling.logprob_temperature)
        self._control = config.kl.controller()
        self._key = jax.random.fold_in(jax.random.key(config.seed), 2)
        self._order = make_order(self._key, config.epochs, config.minibatches)
        self._rounding: Callable[..., Any] = jax.jit(parallel.traced_on(self.mesh, self._rounded))
        self.passes_program: Callable[..., Any] = jax.jit(parallel.traced_on(self.mesh, self._passed))
        self.prepare_program: Callable[..., Any] = jax.jit(parallel.traced_on(self.mesh, self._prepared))
        self.update_program: Callable[..., Any] = jax.jit(
            parallel.traced_on(self.mesh, self._updated), static_argnums=6, donate_argnums=0
        )

    def init(self) -> OnlineState:
        """Make the state before the first iteration, placed on the mesh."""
        train, _ = training.init(
            lambda params: params,
            self.optimizer,
            parallel.bring(self._initial),
            shardings=lambda shapes: parallel.param_shardings(shapes, self.mesh),
        )
        rest = (self._control.init(), rewards.empty_moments())
        put = parallel.shaped if parallel.are_shapes(train) else processes.put
        return OnlineState(train, *put(rest, parallel.replicated(self.mesh)))

    def collect(self, state: OnlineState, prompts: Sequence[EncodedPrompt], step: int) -> Rollout:
        """Sample K responses to each prompt from the current policy, on the rollout mesh where there is one."""
        with self._phases.during("collect"):
            if self.beside is not None:
                return self.beside(self.beside.copy(state.train.params["policy"]), prompts, step)
            policy = self.with_trunk(state.train.params)["policy"]
            return self.sampler(policy, prompts, step, samples=self.config.samples)

    def prepare(
        self, state: OnlineState, sampled: Rollout, prompts: Sequence[EncodedPrompt], scores: Scores | None = None
    ) -> tuple[SequenceBatch, Metrics]:
        """Compute what an update needs: log-probabilities, shaped rewards, KL, and with a critic values and advantages.

        Args:
            state: the current one.
            sampled: the rollout that ``collect`` returned.
            prompts: the prompts that ``collect`` was given.
            scores: the responses' scores; ``trainer.reward`` computes them when they are not given.

        Returns:
            The batch and the iteration's metrics as ``(sum, weight)`` pairs.
        """
        with self._phases.during("prepare"):
            return self._prepare(state, sampled, prompts, scores)

    def _prepare(
        self, state: OnlineState, sampled: Rollout, prompts: Sequence[EncodedPrompt], scores: Scores | None
    ) -> tuple[SequenceBatch, Metrics]:
        rows = self.sampler.rows(sampled)
        out = self.passes_program(state.train.params, self.frozen, rows)
        ref_logprobs = self.sampler.logprobs(self.sampler.reference, rows)
        # A reward on text is computed on the host while the devices are at the passes before.
        if scores is None:
            with self._phases.during("reward"):
                scores = self.reward(sampled, prompts, rows)
        batch, info = self.prepare_program(state.controller.coef, state.moments, sampled, out, ref_logprobs, scores)
        # The very arrays that were sampled: to plan the updates, the host reads their lengths before the rest is there.
        own = {name: x for name, x in as_batch(sampled)._asdict().items() if x is not None}
        return batch._replace(**own), info

    def rounding(self, state: OnlineState, sampled: Rollout) -> float:
        """Measure how far rounding alone takes the trainer's log-probabilities from those in float32: nats a token.

        Where the sampler holds its matrices in 8 bits, so does the pass that is measured. The responses to the first
        eight prompts are looked at.
        """
        return float(self._rounding(self.with_trunk(state.train.params)["policy"], sampled))

    def update(self, state: OnlineState, batch: SequenceBatch, step: int) -> tuple[OnlineState, Metrics]:
        """Run all epochs and minibatches of one iteration in one program; the given state is used up.

        Args:
            state: the current one.
            batch: from ``prepare``, or any other with the fields that the objective reads; how it is packed is decided
                here.
            step: the iteration, from which order and keys follow.

        Returns:
            The new state, and the iteration's metrics as ``(sum, weight)`` pairs.
        """
        plan, shape, figures = self._plan(batch, step)
        text, key = self._text_batches(step), jax.random.fold_in(self._key, step)
        if self.config.offload == "frozen":
            jax.block_until_ready(batch)  # what was brought to prepare it is gone before the update takes its memory
        state, metrics = self.update_program(state, self.frozen, batch._replace(packing=None), plan, text, key, shape)
        return state, {**metrics, **figures}

    def pull_back(self, state: OnlineState) -> OnlineState:
        """Set the KL coefficient to ``kl.maximum``, from where the controller goes on."""
        coef = processes.put(jnp.float32(self.config.kl.maximum), parallel.replicated(self.mesh))
        return state._replace(controller=KLState(coef))

    def with_trunk(self, trained: Params) -> Params:
        """Join what is trained, by role, with the frozen trunks that adapters stand on."""
        return models.join(trained, self.frozen)

    def whole(self, trained: Params) -> Params:
        """Call ``with_trunk``, which is the name now, with a warning."""
        said = "OnlineTrainer.whole is called with_trunk now; the old name goes with the next version"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        return self.with_trunk(trained)

    def _text_batches(self, step: int) -> SequenceBatch | None:
        """Stack a batch of pretraining text for every update of an iteration; it depends on the step alone."""
        if self._text is None:
            return None
        count = self.config.epochs * self.config.minibatches
        return jax.tree.map(lambda *x: np.stack(x), *(self._text[step * count + i] for i in range(count)))

    def _plan(self, batch: SequenceBatch, step: int) -> tuple[BlockPlan, BlockShape, Metrics]:
        """Plan the blocks of an iteration's updates; the figures say how much of them is padding."""
        config, (groups, responses, length) = self.config, batch.tokens.shape
        lengths, order = lengths_of(batch), self._order(step, groups)
        shape = shape_of(self.mesh, order.shape[1], responses, length, parts=config.micro_batches)
        plan = plan_updates(lengths, order, shape)
        return plan, shape, padding(lengths, order, plan, shape)

    def _train_step(self, frozen: Params, batch: SequenceBatch, shape: BlockShape) -> training.TrainStep:
        """Make the function that updates what is trained, on these frozen trunks, by blocks of this batch."""

        def on_trunks(loss_fn: LossFn) -> LossFn:
            return lambda trained, batch, key: loss_fn(models.join(trained, frozen), batch, key)

        def on_block(trained: Params, plan: Any, key: Array) -> tuple[Array, Aux]:
            return on_trunks(self._loss)(trained, pack_block(batch, plan[0], plan[1], shape, self.mesh), key)

        # People wrote this text: it was drawn at no temperature.
        text_loss = make_loss_fn(objectives.sft, {"policy": self.models["policy"]})
        extra = {"ptx": training.AuxiliaryLoss(on_trunks(text_loss), self.config.ptx.coef)} if self._text else None
        return training.make_train_step(on_block, self.optimizer, accumulate=self.config.micro_batches, extra=extra)

    def _passed(self, trained: Params, frozen: Params, rows: Rows) -> Outputs:
        """Run policy and critic over the sampled responses, without gradients."""
        params, temperature = models.join(trained, frozen), self.config.sampling.logprob_temperature

        def run(block: SequenceBatch) -> Outputs:
            out = forward(self.models, params, block, temperature=temperature)
            return jax.tree.map(lambda x: x[:, 0], out._replace(entropy=None))

        return jax.tree.map(lambda x: by_response(x, rows), in_blocks(run, rows))

    def _rounded(self, policy: Params, sampled: Rollout) -> Array:
        exact = models.build(dataclasses.replace(self._policy_config, compute_dtype="float32"))
        some, at = jax.tree.map(lambda x: x[:8], sampled), self.config.sampling.logprob_temperature
        if self.config.sampling.int8 == "none":
            return rounding(self._policy, exact, policy, some, temperature=at)
        # Keys and values in 8 bits add little to what the matrices that make them have added.
        model = models.build(dataclasses.replace(self._policy_config, int8=True))
        held = {**policy, "blocks": models.quantise_blocks(policy["blocks"])}
        return rounding(model, exact, policy, some, temperature=at, held=held)

    def _prepared(
        self, coef: Array, moments: Moments, sampled: Rollout, out: Outputs, ref_logprobs: Array, scores: Scores
    ) -> tuple[SequenceBatch, Metrics]:
        return prepare_batch(self.config, sampled, out, ref_logprobs, scores, coef=coef, moments=moments)

    def _updated(
        self,
        state: OnlineState,
        frozen: Params,
        batch: SequenceBatch,
        plan: BlockPlan,
        text: SequenceBatch | None,
        key: Array,
        shape: BlockShape,
    ) -> tuple[OnlineState, Metrics]:
        mesh, step = self.mesh, self._train_step(frozen, batch, shape)

        def one(train: TrainState, scanned: tuple[Any, Any, Array]) -> tuple[TrainState, Metrics]:
            (groups, starts, used), text_rows, k = scanned
            parts = training.Parts((groups, starts), used)
            if text_rows is None:
                return step(train, parts, k)
            spread = parallel.batch_shardings(text_rows, mesh, batch_axis=int(self.config.micro_batches > 1))
            return step(train, (parts, {"ptx": jax.lax.with_sharding_constraint(text_rows, spread)}), k)

        _, step_key = jax.random.split(key)  # the other half is the order's
        train, metrics = jax.lax.scan(one, state.train, (plan, text, jax.random.split(step_key, len(plan.used))))
        kl = jnp.mean(response_kl(batch))
        samples = jnp.float32(batch.score.size)
        controller = self._control.update(state.controller, kl=kl, samples=samples)
        moments = rewards.add_to_moments(state.moments, batch.score)
        totals = jax.tree.map(jnp.sum, metrics)
        # This counts updates of the iteration; everything else is a mean over them.
        return OnlineState(train, controller, moments), {**totals, "skipped": once(totals["skipped"][0])}


def _loss_fields(config: OnlineConfig, objective: Objective | None) -> dict[str, Any]:
    """The hyperparameters in ``PPOConfig.loss`` that the objective is given.

    ``ppo`` and ``a2c`` get all of them. Another objective keeps its own defaults, but for the fields that somebody set.
    """
    if not isinstance(config, PPOConfig):
        return {}
    fields, defaults = dataclasses.asdict(config.loss), dataclasses.asdict(PPOLossConfig())
    if is_one_of(config.objective if objective is None else describe_objective(objective), "ppo", "a2c"):
        return fields
    return {name: value for name, value in fields.items() if value != defaults[name]}
