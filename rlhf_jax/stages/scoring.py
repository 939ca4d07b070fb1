"""Scoring responses: a reward model, an ensemble of them, or a function on text, behind one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import models, parallel, processes, rewards
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.models.ensemble import member_values
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import place
from rlhf_jax.runs.reward_models import load_reward_model
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.stages.blocks import Rows, at_last, in_blocks
from rlhf_jax.stages.judge_reward import JudgeReward, judged_rollout
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.types import Array, Params, Rollout


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model's config together with its weights: the form in which one stage hands a model to another.

    The weights of an ensemble are stacked: every leaf that was trained is [M, ...].
    """

    config: models.ModelConfig
    params: Params


class Scores(NamedTuple):
    """Scores that a reward gives to the responses of a rollout."""

    reward: Array  # float32 [B, K], before any shaping
    disagreement: Array  # float32 [B, K], standard deviation of an ensemble's scores; 0 for a single model
    abstained: Array | None = None  # bool [B, K], where a judge that votes said nothing; None for other rewards


class RolloutReward:
    """A reward that scores rollouts: ``reward(sampled, prompts) -> Scores``.

    Args:
        reward: a reward model (a ``LoadedModel`` with a scalar head, maybe an ensemble), or any callable
            ``(prompts, responses) -> numbers``.
        sampler: turns rollouts into text and knows the mesh.
        ensemble: how the members of an ensemble are combined.
        parked: the reward model waits in the host's memory while it does not score.
    """

    def __init__(
        self,
        reward: LoadedModel | TextReward,
        sampler: Sampler,
        ensemble: EnsembleConfig | None = None,
        *,
        parked: bool = False,
    ):
        self._sampler = sampler
        self._text = None if isinstance(reward, LoadedModel) else reward
        if isinstance(reward, LoadedModel):
            how = ensemble or EnsembleConfig()
            model = models.build(reward.config)
            self.params = place(reward.params, sampler.mesh, parked=parked)

            def score(params: Params, rows: Rows) -> Scores:
                each = at_last(in_blocks(lambda block: member_values(model, params, block), rows), rows)
                each = jnp.moveaxis(each, -1, 0)  # [M, B, K]
                return Scores(rewards.combine(each, how), rewards.disagreement(each))

            self.program: Callable[..., Any] = jax.jit(parallel.traced_on(sampler.mesh, score))

    def __call__(self, sampled: Rollout, prompts: Sequence[EncodedPrompt], rows: Rows | None = None) -> Scores:
        """Score every response; ``rows`` are the sampled ones, where they are packed already."""
        if self._text is None:
            rows = self._sampler.rows(sampled) if rows is None else rows
            return self.program(parallel.bring(self.params), rows)
        shape = sampled.tokens.shape[:2]
        if isinstance(self._text, JudgeReward):
            found, abstained = judged_rollout(self._text, self._sampler, sampled, prompts)
            return Scores(*processes.put((found, np.zeros(shape, np.float32), abstained), sampled.finished.sharding))
        repeated = [p.text for p in prompts for _ in range(shape[1])]
        scores = score_shared(self._text, repeated, self._sampler.texts(sampled)).reshape(shape)
        # An array of its own each: what is donated must not be shared.
        return Scores(*processes.put((scores, np.zeros(shape, np.float32)), sampled.finished.sharding))


def score_shared(
    reward: TextReward, prompts: Sequence[str], responses: Sequence[str], *, called: str = "the reward"
) -> np.ndarray:
    """Score responses by a function on text, each process its share of them.

    Args:
        reward: ``(prompts, responses) -> numbers``; it sees some of the responses where there are several processes.
        prompts: n texts, the same in every process.
        responses: n texts.
        called: what messages call the function.

    Returns:
        float32 [n], the same in every process.

    Raises:
        OtherProcessError: the function failed in another process.
    """
    if not processes.several():
        return rewards.score_texts(reward, prompts, responses, called=called)
    part = processes.share(len(responses))

    def own() -> np.ndarray:
        asked, given = list(prompts[part]), list(responses[part])
        return rewards.score_texts(reward, asked, given, called=called) if given else np.zeros(0, np.float32)

    scores = processes.agree(own, called)
    return np.concatenate([np.frombuffer(x, np.float32) for x in processes.exchange(scores.tobytes())])


def load_reward(folder: str, tokenizer: Tokenizer, mesh: Mesh | None = None) -> LoadedModel:
    """Load a reward model or an ensemble, and check that it reads the policy's tokens.

    Args:
        folder: a run folder, or a checkpoint that is a sequence classifier with one label.
        tokenizer: the policy's.
        mesh: where the weights go.

    Raises:
        RunError: when there is none, or it has another tokenizer.
    """
    if not folder.strip():
        raise RunError("reward_model is empty: name the run folder of a reward model, --reward-model RUN")
    path, stage = split_stage(folder)
    if stage is not None:
        raise RunError(f"reward_model {folder}: its reward stage is meant, so name the run folder alone, {path}")
    model_config, params, scored_with = load_reward_model(path, mesh)
    if not scored_with.writes_like(tokenizer):
        raise RunError(
            f"the reward model of {folder} and the policy have different tokenizers: train the reward model from this "
            "policy (rlhf reward --init), or score text with it in Python, reward=Scorer.load(...)"
        )
    return LoadedModel(model_config, params)
