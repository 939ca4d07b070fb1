"""Stage 3: KL-penalised PPO, or any other objective with a critic."""

from __future__ import annotations

from collections.abc import Mapping

from jax.sharding import Mesh

from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.given import Given
from rlhf_jax.stages.online.config import PPOConfig
from rlhf_jax.stages.online.loop import train_online
from rlhf_jax.stages.optimizers import OwnOptimizer
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Objective


def ppo(
    config: PPOConfig | None = None,
    *,
    reward: TextReward | None = None,
    judges: Mapping[str, TextReward] | None = None,
    objective: Objective | None = None,
    optimizer: OwnOptimizer | None = None,
    tracker: Tracker | None = None,
    mesh: Mesh | None = None,
) -> RunResult:
    """Train a policy against a reward, or return what the run folder already holds.

    A stage that was interrupted continues from its last checkpoint.

    Args:
        config: the quickstart's task by default.
        reward: any callable ``(prompts, responses) -> numbers``; what ``config.reward`` names by default, or the model
            of ``config.reward_model``.
        judges: callables like a reward that measure the policy and never train it; ``gold`` is the one that counts.
            By default they are those that ``config.judge`` names; where it names none, human_sentiment has a ridge
            regression on the validation split's ratings and VADER, and other data has none.
        objective: what ``config.objective`` names by default, with ``config.loss`` bound to ``objectives.ppo``.
        optimizer: any optax transformation, or a function that makes one (``stages.optimizers.make_own`` says of what);
            it updates the policy, and the critic too, with a state of its own. What the config describes by default.
        tracker: called with every row of metrics; what ``config.tracker`` names by default.
        mesh: devices; ``config.mesh`` over all of them by default.

    Returns:
        ``RunResult`` with ``params["policy"]`` and ``params["critic"]`` of the best held-out proxy reward whose KL is
        below ``config.max_kl``; ``summary`` compares it with the SFT policy on test prompts. With ``critic="head"``
        the critic is a ``head`` and nothing else.

    Raises:
        DataError: on a bad row.
        RunError: when a folder lacks the policy or the reward model, or holds a run of another config; when the judge
            cannot be used.
        SamplerMismatch: when sampler and trainer disagree.
        SkippedUpdates: when too many updates in a row were not finite.
        NothingTrained: when it came to its end without a result, all updates being skipped, say; it is written then.
        Interrupted: when a signal stopped it; the same call continues.

    Example:
        >>> result = ppo(reward=lambda prompts, responses: [r.count("!") for r in responses])  # doctest: +SKIP
    """
    config = PPOConfig() if config is None else config
    check_kind(config, PPOConfig, "ppo")
    given = Given(objective=objective, reward=reward, judges=judges, optimizer=optimizer, tracker=tracker)
    return train_online("ppo", config, given, mesh)
