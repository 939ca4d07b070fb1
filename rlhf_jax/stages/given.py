"""What a caller hands to a stage in place of what its config names: functions, kept as they were given.

The one place where a run's own code comes together: the functions themselves are here, and ``named_in`` writes what
each of them is into the config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.content import content_of
from rlhf_jax.stages.choose import describe_objective
from rlhf_jax.stages.optimizers import OwnOptimizer
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.training.tracking import Tracker
from rlhf_jax.types import Objective


class Given(NamedTuple):
    """The arguments of a stage that are functions; None where the config has the say.

    Args:
        objective: ``(outputs, batch) -> Loss``.
        reward: ``(prompts, responses) -> numbers``, for stages that sample.
        judges: callables like a reward, by name.
        optimizer: an optax transformation, or a function that returns one.
        tracker: ``(row) -> None``.
    """

    objective: Objective | None = None
    reward: TextReward | None = None
    judges: Mapping[str, TextReward] | None = None
    optimizer: OwnOptimizer | None = None
    tracker: Tracker | None = None

    def named_in(self, config: Any) -> Any:
        """Write what each function is into the config, so that the run folder says what the run was made with.

        Each is looked at here, before anything calls it: what it counts or keeps of its calls is no part of it.

        Args:
            config: a stage's.

        Returns:
            The config with ``objective``, ``reward``, ``judge``, ``tracker`` and the optimisers' ``function`` replaced
            where a function was given; a ``reward_model`` that a reward replaces is taken out, because it is not read.
        """
        said: dict[str, Any] = {}
        content_of((*self[:2], *(self.judges or {}).values(), self.optimizer))
        if self.objective is not None:
            said["objective"] = describe_objective(self.objective)
        if self.reward is not None:
            said |= {"reward": describe_objective(self.reward), "reward_model": ""}
        if self.judges is not None:
            said["judge"] = tuple(f"{name}={describe_objective(judge)}" for name, judge in self.judges.items())
        if self.tracker is not None:
            said["tracker"] = describe_objective(self.tracker)
        if self.optimizer is not None:
            function = describe_optimizer(self.optimizer)
            said |= {
                name: dataclasses.replace(value, function=function)
                for name, value in vars(config).items()
                if isinstance(value, OptimizerConfig)
            }
        return dataclasses.replace(config, **said) if said else config


def describe_optimizer(optimizer: OwnOptimizer) -> str:
    """Describe an optimiser that was passed: a function by its name, a transformation by the function that made it.

    Example:
        >>> import optax
        >>> describe_optimizer(optax.lion), describe_optimizer(optax.scale(0.1))
        ('optax._src.alias.lion', 'optax transformation')
    """
    return "optax transformation" if isinstance(optimizer, tuple) else describe_objective(optimizer)
