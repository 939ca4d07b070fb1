"""What is usual for a model of a given size: its learning rate in each stage, and the size of its reward model."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from rlhf_jax import models
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.stages.config import StageConfig
from rlhf_jax.stages.online.config import PPOConfig
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Params

LARGE, SMALL = 10**9, 10**8  # parameters: at least so many, and fewer than these
ADAPTERS = 10.0  # how much higher the rates of adapters are
HEAD_STEP = 0.3  # how far an update may move a head's values, in standard deviations of the shaped score
BETWEEN = 10.0  # how much higher the highest rate of models that are neither large nor small
LEAST_REWARD_SHARE = 0.25


class Rates(NamedTuple):
    """The usual learning rates of large models, all weights trained."""

    low: float
    high: float
    source: str


# The ends are round figures around what people use; the sources name values between them.
RATES = {
    "sft": Rates(1e-5, 5e-4, "Ouyang et al. 2022: about 1e-5; Stiennon et al. 2020: 6.35e-5"),
    "reward": Rates(1e-6, 1e-4, "Huang et al. 2024: 3e-6; Ouyang et al. 2022: 9e-6; Stiennon et al. 2020: 1.5e-5"),
    "ppo": Rates(1e-7, 1e-5, "Huang et al. 2024: 3e-6; Stiennon et al. 2020: 7e-6 for 6.7 billion"),
    "group": Rates(1e-7, 1e-5, "Shao et al. 2024: 1e-6"),
    "preference": Rates(5e-7, 1e-5, "Tunstall et al. 2023: 5e-7; Rafailov et al. 2023: 1e-6"),
    "critic": Rates(1e-6, 1e-4, "as of the reward model it starts from; Huang et al. 2024: 3e-6"),
}
# Models so small are mostly trained from scratch, by whatever rate makes them learn.
SMALL_RATES = Rates(1e-7, 1e-2, "up to 1e-2 for a million parameters from scratch")


def parameter_count(params: Params) -> int:
    """Count the parameters of one model; in a stacked ensemble, those of one member.

    Example:
        >>> import numpy as np
        >>> parameter_count({"embedding": np.zeros((10, 4)), "final_norm": {"scale": np.zeros(4)}})
        44
    """
    if "head" in params and models.members(params):
        params = jax.eval_shape(lambda p: models.member(p, 0), params)
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def usual_rates(stage: str, parameters: int, *, adapters: bool) -> Rates:
    """Look up the learning rates that are usual for a stage and a size.

    Args:
        stage: a stage's name, or ``critic``.
        parameters: how many the whole model has, frozen ones included.
        adapters: whether low-rank adapters are trained in place of all weights.

    Example:
        >>> usual_rates("preference", 7 * 10**9, adapters=False)[:2]
        (5e-07, 1e-05)
    """
    low, high, source = SMALL_RATES if parameters < SMALL else RATES[stage]
    if SMALL <= parameters < LARGE:
        high, source = high * BETWEEN, f"{source}; up to {BETWEEN:g} times as much below a billion parameters"
    if adapters:
        low, high, source = low * ADAPTERS, high * ADAPTERS, f"{source}; {ADAPTERS:g} times as much for adapters"
    return Rates(low, high, source)


def warn_of_rates(stage: str, config: StageConfig, params: Params) -> None:
    """Warn of every learning rate of a stage that is unusual for what it trains.

    Args:
        stage: its name.
        config: the stage's config; the rate of each of its optimisers is checked.
        params: the model that is trained, with its frozen trunk; a critic of its own is taken to be as large.
    """
    parameters = parameter_count(params)
    for name, optimizer in vars(config).items():
        if isinstance(optimizer, OptimizerConfig) and optimizer.function:
            continue  # whose rates are its own business
        if name == "critic_optimizer" and _has_value_head(config):
            _warn_of_head_rate(optimizer.learning_rate, params["embedding"].shape[-1])
        elif isinstance(optimizer, OptimizerConfig):
            trained = "critic" if name == "critic_optimizer" else stage
            low, high, source = usual_rates(trained, parameters, adapters=config.lora.rank > 0)
            warn_outside(f"{name}.learning_rate", optimizer.learning_rate, low, high, source)


def _has_value_head(config: StageConfig) -> bool:
    return isinstance(config, PPOConfig) and config.critic == "head"


def _warn_of_head_rate(rate: float, width: int) -> None:
    """Warn of a rate at which the values of a head would leap: Adam moves each of its weights by about the rate."""
    source = f"the values of a head on {width} hidden dimensions move by up to the rate times {width} in an update"
    warn_outside("critic_optimizer.learning_rate", rate, 0.0, HEAD_STEP / width, source)


def warn_of_small_reward(reward: Params, policy: Params) -> None:
    """Warn when the reward model has less than a quarter of the policy's parameters.

    The smaller a reward model, the sooner a policy finds what it overrates, and the lower the true reward that it
    reaches before that falls again.

    Args:
        reward: the whole model, or an ensemble, of which one member is looked at.
        policy: the whole model.

    Source: Gao et al. 2023 (arXiv:2210.10760). Ouyang et al. 2022 train policies of 175 billion parameters
    against a reward model of 6 billion, so a small one may be intended.
    """
    share = parameter_count(reward) / parameter_count(policy)
    warn_outside(
        "the reward model's share of the policy's parameters",
        share,
        LEAST_REWARD_SHARE,
        math.inf,
        "Gao et al. 2023: the smaller the reward model, the sooner it is over-optimised; hold the KL low, or train a "
        "larger one",
    )
