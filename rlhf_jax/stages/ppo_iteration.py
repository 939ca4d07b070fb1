"""One iteration of PPO as three steps that can be called by hand: collect, prepare, update.

    trainer = PPOTrainer(config, policy=..., reward=...)
    state = trainer.init()
    rollout = trainer.collect(state, prompts, step)
    batch, info = trainer.prepare(state, rollout, prompts)
    state, metrics = trainer.update(state, batch, step)

``stages.ppo`` runs these in a loop with evaluation, checkpoints and logs around them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import losses, models, parallel, rewards, rollout, training
from rlhf_jax.data import Tokenizer
from rlhf_jax.rewards import Moments, TextReward
from rlhf_jax.stages.lift import forward, lift
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.training import KLState, TrainState
from rlhf_jax.types import Array, Objective, Params, Rollout, SequenceBatch

Metrics = dict[str, tuple[Array, Array]]


class PPOState(NamedTuple):
    """Everything that changes from one iteration to the next; this is what a checkpoint holds."""

    train: TrainState  # params {"policy", "critic"}, both optimisers, step, skipped updates
    controller: KLState
    moments: Moments  # of the scores seen so far


class Prompt(NamedTuple):
    """A prompt as text and as the token ids that are sampled from; ``id`` names it in its sampling key."""

    text: str
    tokens: np.ndarray
    id: int


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A model with its weights, as one stage hands it to another."""

    config: models.ModelConfig
    params: Params


class PPOTrainer:
    """PPO with a policy, a frozen reference, a critic and a reward.

    Args:
        config: every hyperparameter.
        policy: where the policy starts; a frozen copy is the reference.
        tokenizer: of the policy (and of the reward model).
        reward: a reward model (a ``Trunk`` with a scalar head), or any callable ``(prompts, responses) -> numbers``.
        objective: ``objectives.ppo`` with the config's hyperparameters by default.
        prompt_columns: prompts are padded to a multiple of this many; as many as the longest prompt needs, and one
            compiled program serves every iteration.
        mesh: devices; the config's mesh by default.
    """

    def __init__(
        self,
        config: PPOConfig,
        *,
        policy: Trunk,
        tokenizer: Tokenizer,
        reward: Trunk | TextReward,
        objective: Objective | None = None,
        prompt_columns: int = 8,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self.config, self.tokenizer, self.reward = config, tokenizer, reward
        self.prompt_columns = prompt_columns
        self.mesh = parallel.make_mesh(config.mesh) if mesh is None else mesh
        # The critic has a trunk of its own; a reward model's already knows what is good, so it starts from that.
        start = reward if isinstance(reward, Trunk) else policy
        trunk = {k: v for k, v in start.params.items() if k != "head"}
        self.critic_config = dataclasses.replace(start.config, scalar_head=True)
        self.models = {"policy": models.build(policy.config), "critic": models.build(self.critic_config)}
        self._initial = {
            "policy": jax.tree.map(jnp.copy, policy.params),
            "critic": models.with_scalar_head(trunk, self.critic_config),
        }
        self.reference = self._place(jax.tree.map(jnp.copy, policy.params))
        self.engine = rollout.Engine(
            self.models["policy"], config.sampling, pad_id=tokenizer.pad_id, eos_id=tokenizer.eos_id
        )
        self.key = jax.random.key(config.seed)
        self.optimizer = training.by_role(
            {
                "policy": training.make_optimizer(config.policy_optimizer, config.updates),
                "critic": training.make_optimizer(config.critic_optimizer, config.updates),
            }
        )
        self._step = training.make_train_step(lift(objective or config.objective(), self.models), self.optimizer)
        self._control = config.kl.controller()
        self._rows = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        self._compile()

    def init(self) -> PPOState:
        """The state before the first iteration, placed on the mesh."""
        train, _ = training.init(
            lambda params: params,
            self.optimizer,
            self._initial,
            shardings=lambda shapes: parallel.param_shardings(shapes, self.mesh),
        )
        rest = jax.device_put((self._control.init(), rewards.empty_moments()), parallel.replicated(self.mesh))
        return PPOState(train, *rest)

    def collect(self, state: PPOState, prompts: Sequence[Prompt], step: int, *, samples: int | None = None) -> Rollout:
        """Sample K responses to each prompt from the current policy."""
        return self.sample(state.train.params["policy"], prompts, step, samples=samples or self.config.samples)

    def sample(self, policy: Params, prompts: Sequence[Prompt], step: int, *, samples: int = 1) -> Rollout:
        """Sample from any policy of this shape, the reference for one."""
        return self.engine(
            policy,
            [p.tokens for p in prompts],
            key=jax.random.fold_in(self.key, 1),
            step=step,
            prompt_ids=np.asarray([p.id for p in prompts]),
            samples=samples,
            bucket=self.prompt_columns,
            sharding=self._rows if len(prompts) % self._rows.num_devices == 0 else parallel.replicated(self.mesh),
        )

    def score(self, sampled: Rollout, prompts: Sequence[Prompt]) -> Array:
        """The reward of every response, float32 [B, K], before any shaping."""
        if isinstance(self.reward, Trunk):
            return self._reward_model(self._reward_params, sampled)
        responses = self.texts(sampled)
        repeated = [p.text for p in prompts for _ in range(sampled.tokens.shape[1])]
        scores = rewards.score_texts(self.reward, repeated, responses)
        return jax.device_put(scores.reshape(sampled.tokens.shape[:2]), sampled.finished.sharding)

    def texts(self, sampled: Rollout) -> list[str]:
        """The responses as text, in the order of ``[B, K]`` flattened."""
        return [self.tokenizer.decode_response(ids) for ids in response_tokens(sampled)]

    def prepare(
        self, state: PPOState, sampled: Rollout, prompts: Sequence[Prompt], scores: Array | None = None
    ) -> tuple[SequenceBatch, Metrics]:
        """Everything an update needs: log-probabilities, values, shaped rewards with the KL in them, advantages.

        Args:
            state: the current one.
            sampled: what ``collect`` gave.
            prompts: what it was given.
            scores: float32 [B, K]; from ``score`` when not given.

        Returns:
            The batch and the iteration's metrics as ``(sum, weight)`` pairs.
        """
        scores = self.score(sampled, prompts) if scores is None else scores
        return self._prepare(state, self.reference, sampled, scores)

    def update(self, state: PPOState, batch: SequenceBatch, step: int) -> tuple[PPOState, Metrics]:
        """All epochs and minibatches of one iteration in one program; the given state is used up."""
        return self._update(state, batch, jax.random.fold_in(jax.random.fold_in(self.key, 2), step))

    def measure(self, policy: Params, sampled: Rollout, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        """Proxy reward and KL to the reference of every response, float32 [B * K], for an evaluation."""
        kl = self._kl(policy, self.reference, sampled)
        return {"proxy": np.asarray(self.score(sampled, prompts)).reshape(-1), "kl": np.asarray(kl).reshape(-1)}

    def _place(self, params: Params) -> Params:
        return parallel.put(params, parallel.param_shardings(params, self.mesh))

    def _compile(self) -> None:
        """Close over what never changes and compile each piece once."""
        config, roles, mesh = self.config, self.models, self.mesh

        def prepare(
            state: PPOState, reference: Params, sampled: Rollout, scores: Array
        ) -> tuple[SequenceBatch, Metrics]:
            batch = as_batch(sampled)
            out = forward(roles, state.train.params, batch)
            ref = forward({"policy": roles["policy"]}, {"policy": reference}, batch)
            lengths = jnp.sum(sampled.mask, axis=-1)
            moments = rewards.add_to_moments(state.moments, scores)
            shaped = rewards.shape_rewards(scores, sampled.finished, lengths, moments, config.shaping)
            per_token = losses.kl_penalised_rewards(
                shaped, out.logprobs, ref.logprobs, sampled.mask, kl_coef=state.controller.coef
            )
            advantages, returns = losses.gae(
                per_token, out.values, sampled.mask, gamma=config.gamma, gae_lambda=config.gae_lambda
            )
            if config.whiten_advantages:
                advantages = losses.masked_whiten(advantages, sampled.mask)
            batch = batch._replace(
                reward=scores,
                old_logprobs=out.logprobs,
                ref_logprobs=ref.logprobs,
                advantages=advantages,
                returns=returns,
                old_values=out.values,
            )
            gap = jnp.where(sampled.mask, jnp.abs(out.logprobs - sampled.logprobs), 0.0)
            return batch, {
                **_rollout_metrics(batch, shaped, sampled),
                "kl_coef": _once(state.controller.coef),
                "logprob_gap": _once(jnp.max(gap)),
                "explained_variance": _once(_explained_variance(out.values, returns, sampled.mask)),
            }

        def update(state: PPOState, batch: SequenceBatch, key: Array) -> tuple[PPOState, Metrics]:
            groups = batch.tokens.shape[0]
            shuffle, step_key = jax.random.split(key)
            order = jax.vmap(lambda k: jax.random.permutation(k, groups))(jax.random.split(shuffle, config.epochs))
            order = order.reshape(config.epochs * config.minibatches, -1)
            small = jax.tree.map(lambda x: jax.ShapeDtypeStruct((order.shape[1], *x.shape[1:]), x.dtype), batch)
            place = parallel.batch_shardings(small, mesh)

            def one(train: TrainState, scanned: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
                rows, k = scanned
                part = jax.tree.map(lambda x: x[rows], batch)
                return self._step(train, jax.lax.with_sharding_constraint(part, place), k)

            keys = jax.random.split(step_key, order.shape[0])
            train, metrics = jax.lax.scan(one, state.train, (order, keys))
            kl = jnp.mean(_response_kl(batch))
            samples = jnp.float32(groups * batch.tokens.shape[1])
            controller = self._control.update(state.controller, kl=kl, samples=samples)
            moments = rewards.add_to_moments(state.moments, batch.reward)
            totals = jax.tree.map(jnp.sum, metrics)
            # A count, of the iteration's updates; everything else is a mean over them.
            return PPOState(train, controller, moments), {**totals, "skipped": _once(totals["skipped"][0])}

        def kl(policy: Params, reference: Params, sampled: Rollout) -> Array:
            batch = as_batch(sampled)
            new, old = (forward({"policy": roles["policy"]}, {"policy": p}, batch) for p in (policy, reference))
            return losses.masked_sum(losses.k1(new.logprobs, old.logprobs), batch.mask, axis=-1)

        self._prepare: Callable[..., Any] = jax.jit(prepare)
        self._update: Callable[..., Any] = jax.jit(update, donate_argnums=0)
        self._kl: Callable[..., Any] = jax.jit(kl)
        if isinstance(self.reward, Trunk):
            scorer = {"reward": models.build(self.reward.config)}
            self._reward_params = self._place(self.reward.params)
            self._reward_model: Callable[..., Any] = jax.jit(
                lambda params, sampled: forward(scorer, {"reward": params}, as_batch(sampled)).scores
            )


def as_batch(sampled: Rollout) -> SequenceBatch:
    """A rollout as a batch of sequences: the response tokens are the targets."""
    return SequenceBatch(sampled.tokens, sampled.mask, sampled.segment_ids, sampled.positions)


def response_tokens(sampled: Rollout) -> list[np.ndarray]:
    """The token ids of every response, ``[B, K]`` flattened, end-of-sequence token included."""
    tokens, mask = (np.asarray(x) for x in (sampled.tokens, sampled.mask))
    flat_tokens, flat_mask = (x.reshape(-1, x.shape[-1]) for x in (tokens, mask))
    return [t[m] for t, m in zip(flat_tokens, flat_mask, strict=True)]


def _response_kl(batch: SequenceBatch) -> Array:
    """k1 summed over each response, [B, K], nats: unbiased for the KL of the policy that sampled."""
    return losses.masked_sum(losses.k1(batch.old_logprobs, batch.ref_logprobs), batch.mask, axis=-1)


def _rollout_metrics(batch: SequenceBatch, shaped: Array, sampled: Rollout) -> Metrics:
    count = jnp.float32(batch.mask.shape[0] * batch.mask.shape[1])
    tokens = jnp.sum(batch.mask, dtype=jnp.float32)
    kl = _response_kl(batch)
    return {
        "kl": (jnp.sum(kl), count),
        "kl_per_token": (jnp.sum(kl), tokens),
        "proxy_mean": (jnp.sum(batch.reward), count),
        "proxy_std": _once(jnp.std(batch.reward)),
        "shaped_reward": (jnp.sum(shaped), count),
        "length": (tokens, count),
        "eos_rate": (jnp.sum(sampled.finished, dtype=jnp.float32), count),
    }


def _explained_variance(values: Array, returns: Array, mask: Array) -> Array:
    """``1 - Var(returns - values) / Var(returns)`` over response tokens: 1 is a perfect critic, 0 a constant."""

    def variance(x: Array) -> Array:
        return losses.masked_mean(x * x, mask) - losses.masked_mean(x, mask) ** 2

    return 1.0 - variance(returns - values) / jnp.maximum(variance(returns), 1e-8)


def _once(x: Array) -> tuple[Array, Array]:
    """A figure that is no mean, as a (sum, weight) pair."""
    return x.astype(jnp.float32), jnp.float32(1)
