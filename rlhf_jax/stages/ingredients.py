"""What each stage is made of: for every ingredient by name a function that looks at it, when it is to be known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.parts import Parts
from rlhf_jax.judges.made_of import of_judge
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs import folder
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.made_of import Ingredient, collect_again, of_callable, of_model, of_rows
from rlhf_jax.runs.resultless import failure
from rlhf_jax.runs.stage_path import policy_path
from rlhf_jax.runs.store import local
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.runs.values import place_of
from rlhf_jax.stages import sources
from rlhf_jax.stages.choose import named_objective
from rlhf_jax.stages.config import StageConfig, judges_by_name
from rlhf_jax.stages.ending import raise_if_failed
from rlhf_jax.stages.eval_tasks.rows import named_files, read_tasks
from rlhf_jax.stages.judges import VOTES, judge_config, judge_runs
from rlhf_jax.stages.optimizers import OwnOptimizer, load_optimizer
from rlhf_jax.stages.task import Task
from rlhf_jax.training import OptimizerConfig
from rlhf_jax.types import Objective

Makers = dict[str, Callable[[], Ingredient]]


def once(
    stage: str, directory: Path, config: StageConfig, made_of: Makers, run: Callable[[Path], RunResult]
) -> RunResult:
    """Run a stage in its folder, which no other process writes to meanwhile, or return what the folder holds already.

    Args:
        stage: the stage's name.
        directory: the run folder.
        config: its config.
        made_of: what it is made of, all but what the stage finds out as it goes.
        run: trains in a folder.

    Raises:
        RunError: when the folder holds the stage of another config, or made of something else.
        LockedError: when another process has the folder.
        NothingTrained: when the stage was finished before and trained nothing then.
    """
    if not folder.finished(directory, stage, config):
        with locked(directory, f"the {stage} stage"):
            if not folder.finished(directory, stage, config):  # whoever had the folder before may have finished it
                return run(directory)
    folder.check_unchanged(directory, stage, config, collect_again(made_of))
    found = folder.load_result(directory, stage, config)
    raise_if_failed(directory, stage, found.summary)
    return found


def of_data(config: DataConfig, purpose: str, task: Task | None = None) -> Callable[[], Ingredient]:
    """Look at the rows that a stage reads for a purpose, with the task that has read them if there is one."""

    def look() -> Ingredient:
        return of_rows(config.source, (task or sources.find_task(config)).asked(purpose, config.source)(config))

    return look


def of_text(config: DataConfig) -> Callable[[], Ingredient]:
    """Look at the pretraining text beside PPO."""
    return lambda: of_rows(config.source, Parts(sources.pretraining_text(config), [], []))


def of_objective(passed: Objective | None, name: str) -> Callable[[], Ingredient]:
    """Look at an objective: the function that was passed, one of ours, or one in the user's file."""

    def look() -> Ingredient:
        found: Any = passed
        if found is None:
            found = load_function(name, f"objective {name}") if ":" in name else named_objective(name)
        return of_callable(name, found)

    return look


def of_judges(
    passed: Mapping[str, TextReward] | None, named: Sequence[str], data: DataConfig, task: Task | None = None
) -> Makers:
    """Look at judges: those that were passed, the config's, or the data set's own."""
    if passed is not None:
        return {f"judge.{key}": _callable(judge) for key, judge in passed.items()}
    asked = judges_by_name(named)
    if asked:
        return {f"judge.{key}": functools.partial(_named, what, f"judge {what}") for key, what in asked.items()}
    return {
        "judge": lambda: of_callable(f"that of {data.source}", (task or sources.find_task(data)).judges),
    }


def of_reward(passed: TextReward | None, name: str, reward_model: str) -> Callable[[], Ingredient]:
    """Look at the reward: the callable that was passed, the function in the user's file, or the reward model."""
    if passed is not None:
        return _callable(passed)
    return functools.partial(_named, name or reward_model, f"reward {name}")


def of_tasks(files: Sequence[str]) -> Makers:
    """Look at the rows of each task that a policy is measured on while it trains."""

    def look(name: str, file: str) -> Ingredient:
        return of_rows(file, Parts(read_tasks([f"{name}={file}"])[0].rows, [], []))

    return {f"tasks.{name}": functools.partial(look, name, file) for name, file in named_files(files).items()}


def of_optimizers(passed: OwnOptimizer | None, config: StageConfig) -> Makers:
    """Look at an optimiser of the user's own: what was passed, or what the config's optimisers name."""
    if passed is not None:
        return {"optimizer": _callable(passed)}
    own = (value.function for value in vars(config).values() if isinstance(value, OptimizerConfig))
    return {
        f"optimizer.{name}": functools.partial(lambda name: of_callable(name, load_optimizer(name)), name)
        for name in own
        if name
    }


def without_result(config: StageConfig) -> list[str]:
    """List what a stage is made of that came to no result itself: what it starts from, its reward model, its judges.

    Args:
        config: the stage's.

    Returns:
        A sentence for each, for the summary; whoever loads these models warns of them.
    """
    fields = vars(config)
    starts = [policy_path(text, or_reward=True) for text in (fields.get("init"), fields.get("policy")) if text]
    scored_by = [text for text in (fields.get("reward_model"), *judge_runs(fields.get("judge", ()))) if text]
    models = [(at.path, at.stage) for at in starts if at.stage] + [(local(text), "reward") for text in scored_by]
    return [said for path, stage in dict.fromkeys(models) if (said := failure(path, stage))]


def _named(what: str, said: str) -> Ingredient:
    """Look at a function in the user's file, at a judge that votes, or at a reward model."""
    if what.startswith(VOTES):
        return of_judge(judge_config(what))
    return of_callable(what, load_function(what, said)) if ".py:" in what else of_model(what, "reward")


def _callable(value: Any) -> Callable[[], Ingredient]:
    return lambda: of_callable(place_of(value), value)
