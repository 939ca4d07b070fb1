"""What can be chosen: how the agent learns, and how its reward is learnt from preferences."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.fields import check_fields
from rlhf_jax.losses.checks import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """How an actor and its critic learn from rewards, wherever those come from.

    Args:
        method: "ppo", the clipped surrogate, several times over the same steps; or "a2c", the policy gradient, once.
        environments: copies side by side.
        steps: taken in each copy in an iteration; a multiple of a segment's steps where preferences are asked for.
        epochs: how often PPO goes over the steps of an iteration; 1 for A2C.
        minibatches: updates an epoch; 1 for A2C.
        learning_rate: Adam's, which falls to 0 over the training.
        gamma: discount.
        gae_lambda: 0 trusts the critic, 1 the observed rewards.
        clip: how far PPO lets a probability ratio move from 1.
        value_coef: weight of the critic's squared error, in units of the returns' standard deviation.
        entropy_coef: weight of the entropy bonus.
        max_grad_norm: where the gradient's norm is clipped.
        hidden: sizes of the hidden layers, in actor and critic.

    Example:
        >>> AgentConfig(method="a2c", epochs=1, minibatches=1).gamma
        0.99
    """

    method: Literal["ppo", "a2c"] = "ppo"
    environments: int = 16
    steps: int = 125
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    max_grad_norm: float = 0.5
    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("environments", "steps", "epochs", "minibatches"):
            check_range(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "clip", "max_grad_norm"):
            check_range(name, getattr(self, name), above=0)
        for name in ("gamma", "gae_lambda"):
            check_range(name, getattr(self, name), at_least=0, at_most=1)
        for name in ("value_coef", "entropy_coef"):
            check_range(name, getattr(self, name), at_least=0)
        if self.method == "a2c" and (self.epochs, self.minibatches) != (1, 1):
            raise ValueError(
                f"a2c goes over its steps once, as after an update they are another policy's: epochs and minibatches "
                f"must be 1, found {self.epochs} and {self.minibatches}"
            )
        if self.environments * self.steps % self.minibatches:
            raise ValueError(
                f"{self.environments} environments x {self.steps} steps do not part into {self.minibatches} minibatches"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """How a reward is learnt from comparisons of segments.

    Args:
        segment: steps of a segment.
        members: reward models of the ensemble.
        hidden: sizes of the hidden layers of each.
        first_share: share of the labels that is asked for before training, on a random policy's segments.
        candidates: pairs that are looked at for every one that is asked about; 1 asks at random.
        first_updates: updates of the ensemble, on the first labels.
        updates: updates of the ensemble, in every iteration.
        batch: comparisons in an update.
        learning_rate: Adam's.
        error_rate: share of comparisons that are answered the wrong way round; what synthetic raters do, and what the
            likelihood reckons with.

    Example:
        >>> PreferenceConfig(segment=10).members
        3
    """

    segment: int = 25
    members: int = 3
    hidden: tuple[int, ...] = (64, 64)
    first_share: float = 0.25
    candidates: int = 10
    first_updates: int = 200
    updates: int = 20
    batch: int = 16
    learning_rate: float = 1e-3
    error_rate: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("segment", "members", "candidates", "batch"):
            check_range(name, getattr(self, name), at_least=1)
        for name in ("first_updates", "updates"):
            check_range(name, getattr(self, name), at_least=0)
        check_range("learning_rate", self.learning_rate, above=0)
        check_range("first_share", self.first_share, at_least=0, at_most=1)
        check_range("error_rate", self.error_rate, at_least=0)
        if self.error_rate >= 0.5:
            raise ValueError(f"error_rate must be below 0.5, found {self.error_rate}: such answers tell nothing")
