"""Which of our objectives a stage can train: found by trying, so that no list has to be kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence

from rlhf_jax import objectives
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages.choose import GROUP, PPO, PREFERENCE, REWARD, SFT, try_objective
from rlhf_jax.types import Objective

Fields = tuple[tuple[str, ...], tuple[str, ...]]

# What a stage fills and how many responses a group has; and less than that, with which another stage would do.
_STAGES: dict[str, tuple[Fields, int, Sequence[tuple[Fields, int]]]] = {
    "sft": (SFT, 1, ()),
    "reward": (REWARD, 3, ((((), REWARD[1]), 3),)),
    "preference": (PREFERENCE, 2, ((SFT, 1),)),
    "group": (GROUP, 4, (((GROUP[0], ("old_logprobs", "ref_logprobs")), 4),)),
    "ppo": (PPO, 1, ((GROUP, 1), (GROUP, 4))),
}


def objectives_of(stage: str) -> tuple[str, ...]:
    """Find the objectives that a stage is for: those that do with what it gives, and not with less.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.

    Example:
        >>> "ppo" in objectives_of("ppo"), "dpo" in objectives_of("ppo"), "dpo" in objectives_of("preference")
        (True, False, True)
    """
    given, responses, less = _STAGES[stage]
    return tuple(
        name
        for name in objectives.NAMES
        if _does_with(name, given, responses) and not any(_does_with(name, *smaller) for smaller in less)
    )


@functools.cache
def _does_with(name: str, given: Fields, responses: int) -> bool:
    try:
        try_objective(_bound(vars(objectives)[name]), name, given, responses=responses)
    except RunError:
        return False
    return True


def _bound(objective: Objective) -> Objective:
    """Bind a number to every hyperparameter that has no default."""
    parameters = inspect.signature(objective).parameters.values()
    return functools.partial(
        objective, **{p.name: 8 for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    )
