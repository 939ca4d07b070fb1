"""Scoring responses: a reward model, an ensemble of them, or a function on text, behind one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import models, rewards
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.stages.lift import forward
from rlhf_jax.stages.loading import place
from rlhf_jax.stages.sampler import Prompt, Sampler, as_batch
from rlhf_jax.types import Array, Model, Params, Rollout, SequenceBatch


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A model with its weights, as one stage hands it to another; an ensemble's are stacked, [M, ...]."""

    config: models.ModelConfig
    params: Params


class Scores(NamedTuple):
    """What a reward says of a rollout."""

    reward: Array  # float32 [B, K], before any shaping
    disagreement: Array  # float32 [B, K]; between the members of an ensemble, else 0


def member_scores(model: Model, params: Params, batch: SequenceBatch) -> Array:
    """Scores of every member of a reward model, float32 [M, B, K]; M is 1 for a single one."""
    if not models.members(params):
        return forward({"reward": model}, {"reward": params}, batch).scores[None]
    axes = models.member_axes(params)
    return jax.vmap(lambda p: forward({"reward": model}, {"reward": p}, batch).scores, (axes,))(params)


class RolloutReward:
    """A reward for rollouts: ``reward(sampled, prompts) -> Scores``.

    Args:
        reward: a reward model (a ``Trunk`` with a scalar head, maybe an ensemble), or any callable
            ``(prompts, responses) -> numbers``.
        sampler: turns rollouts into text and knows the mesh.
        ensemble: how the members of an ensemble are combined.
    """

    def __init__(self, reward: Trunk | TextReward, sampler: Sampler, ensemble: EnsembleConfig | None = None):
        self._sampler = sampler
        self._text = None if isinstance(reward, Trunk) else reward
        if isinstance(reward, Trunk):
            how = ensemble or EnsembleConfig()
            model = models.build(reward.config)
            self._params = place(reward.params, sampler.mesh)

            def score(params: Params, sampled: Rollout) -> Scores:
                each = member_scores(model, params, as_batch(sampled))
                return Scores(rewards.combine(each, how), rewards.disagreement(each))

            self._model: Callable[..., Any] = jax.jit(score)

    def __call__(self, sampled: Rollout, prompts: Sequence[Prompt]) -> Scores:
        """Scores of every response."""
        if self._text is None:
            return self._model(self._params, sampled)
        shape = sampled.tokens.shape[:2]
        repeated = [p.text for p in prompts for _ in range(shape[1])]
        scores = rewards.score_texts(self._text, repeated, self._sampler.texts(sampled)).reshape(shape)
        # An array of its own each: what is donated must not be shared.
        return Scores(*jax.device_put((scores, jnp.zeros(shape, jnp.float32)), sampled.finished.sharding))
