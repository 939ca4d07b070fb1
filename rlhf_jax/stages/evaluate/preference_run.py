"""Load what the implicit reward of a finished preference stage is made of: policy, objective, and the reference."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import models, objectives
from rlhf_jax.checkpoint import CheckpointError
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.folder import read_record
from rlhf_jax.runs.loading import base_of, load_stage, model_digest
from rlhf_jax.runs.made_of import MADE_OF, read_ingredients
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.stage_path import policy_path, split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.stages.choose import find_objective
from rlhf_jax.stages.evaluate.implicit import ImplicitScores, Side, gained, implicit_rewards
from rlhf_jax.types import Array, Loss, Objective, Outputs, SequenceBatch

_STAGE = "preference"


def load_implicit(run: Path | str, *, templated: bool = False) -> ImplicitScores:
    """Load the implicit reward of a run folder's preference stage.

    The reference is the policy with its adapters off, or else the policy that the stage began with, which has to be
    where it was and the same. An objective without a reference needs none.

    Args:
        run: the run folder.
        templated: the texts hold the chat template already applied.

    Raises:
        RunError: when there is no such stage, or its reference is gone or another one.
    """
    directory = local(run)
    params, config, tokenizer = load_stage(directory, _STAGE)
    record = read_record(directory / "config.json").get(_STAGE)
    if not isinstance(record, Mapping):
        raise RunError(f"{directory / 'config.json'} does not say how its preference stage was trained; bring it back")
    objective, called = objective_of(record)
    policy = Side(config, params["policy"])
    reference = _reference(directory, record, policy) if reads_reference(objective) else None
    read_by = tokenizer.templated() if templated else tokenizer
    what = f"the implicit reward of {run} ({called})"
    return ImplicitScores(policy, reference, objective, read_by, what, templated)


def objective_of(record: Mapping[str, Any]) -> tuple[Objective, str]:
    """Find the objective that a stage was trained with, by what its config says of it.

    Code in a file that a run folder names is not run. The implicit reward of such an objective, and of a function that
    was passed in Python, is the log-probability that the policy gained, which orders responses as any ``beta`` does.

    Args:
        record: the stage's config, from ``config.json``.

    Returns:
        The objective, hyperparameters bound, and what to call it.

    Example:
        >>> objective_of({"objective": "dpo", "hyperparameters": {"beta": 0.05}})[1]
        'dpo, beta=0.05'
        >>> objective_of({"objective": "rlhf_jax.objectives.simpo.simpo(beta=2.5)"})[1]
        'simpo, beta=2.5'
        >>> objective_of({"objective": "mine.py:hinge"})[1]
        'mine.py:hinge, log-probability gained'
    """
    name, given = str(record.get("objective", "")), dict(record.get("hyperparameters") or {})
    known, bound = _taken_apart(name)
    if known not in objectives.NAMES:
        return _gained, f"{name}, log-probability gained"
    values = {**bound, **given}
    said = "".join(f", {key}={value}" for key, value in values.items())
    return find_objective(known, values), f"{known}{said}"


def reads_reference(objective: Objective) -> bool:
    """Whether an objective refuses a batch without log-probabilities of a reference.

    Args:
        objective: on pairs, hyperparameters bound.

    Example:
        >>> reads_reference(objectives.dpo), reads_reference(objectives.simpo)
        (True, False)
    """
    ones = jnp.ones((1, 2, 1), jnp.int32)
    batch = SequenceBatch(ones, ones > 0, ones, ones - 1)
    try:
        jax.eval_shape(lambda x: implicit_rewards(objective, Outputs(logprobs=x), batch), -jnp.ones((1, 2, 1)))
    except ValueError:
        return True
    return False


def _gained(outputs: Outputs, batch: SequenceBatch) -> Loss:
    """Log the log-probability that the policy gained, as an objective with ``beta`` 1 would."""
    won: Array = gained(outputs, batch)
    every = jnp.ones(len(won), bool)
    return Loss(won[:, 0], every, jnp.sum, {f"{x}_reward": (won[:, i], every) for i, x in enumerate(_SIDES)})  # type: ignore[arg-type]


_SIDES = ("chosen", "rejected")


def _taken_apart(name: str) -> tuple[str, dict[str, Any]]:
    """Take apart how an objective of ours that was passed in Python is written, ``MODULE.NAME(KEY=VALUE)``."""
    if name in objectives.NAMES or not name.startswith("rlhf_jax.objectives."):
        return name, {}
    try:
        call = ast.parse(name, mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) else []
        bound = {key.arg: ast.literal_eval(key.value) for key in keywords if key.arg}
    except (SyntaxError, ValueError):  # bound to something that is no plain value
        return name, {}
    return name.split("(")[0].rsplit(".")[-1], bound


def _reference(directory: Path, record: Mapping[str, Any], policy: Side) -> Side:
    """Find the frozen policy that the stage began with."""
    if base_of(directory, _STAGE) is not None:
        return Side(policy.config, models.adapter_off(policy.params))
    named = str(record.get("policy", ""))
    folder, stage = split_stage(named)
    if str(folder) == str(record.get("out", "")):  # one folder, which may have been moved since
        named = f"{directory}:{stage or 'sft'}"
    noted = read_ingredients(read_record(directory / MADE_OF).get(_STAGE, {}), f"{directory / MADE_OF}").get("policy")
    try:
        now = model_digest(named)
        at = policy_path(named)
        found = Policy.load(at.path, at.stage or None)
    except (RunError, models.CheckpointError, CheckpointError) as error:
        raise RunError(
            f"the reference of {directory} is the policy that it began with, {named}, which is gone or damaged "
            f"({error}): bring it back to where it was, or evaluate the reward model of a run"
        ) from error
    if noted and noted["sha256"] and noted["sha256"] != now:
        raise RunError(
            f"the reference of {directory} is the policy that it began with, {named}, which holds another one now: "
            "restore it, or run the stage again"
        )
    return Side(found.config, found.params)
