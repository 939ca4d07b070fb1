"""What a judge is made of, by content, so that nothing goes on with another judge of the same name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlhf_jax.judges.config import JudgeConfig
from rlhf_jax.judges.find import is_address, resolved
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import first_finished, model_digest
from rlhf_jax.runs.made_of import Ingredient, of_callable
from rlhf_jax.runs.stage_path import policy_path, split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.stage_names import POLICY_STAGES


def of_judge(config: JudgeConfig) -> Ingredient:
    """Describe a judge by what it votes by: a function's code, a model's weights, and what is asked.

    What an endpoint serves cannot be known; it is described by its address and the model's name.

    Args:
        config: who judges, and how.

    Returns:
        What it is called, and its hash.

    Raises:
        RunError: when a file or a model that it names is not there.
    """
    told = resolved(config)
    if ".py:" in told.judge:
        return of_callable(config.judge, load_function(told.judge.removeprefix("scores:"), f"judge {told.judge}"))
    # How fast an endpoint is asked, or what it costs, is no part of its answers.
    asked = (told.endpoint.temperature, told.endpoint.answer_tokens, told.endpoint.top_logprobs)
    fields = (
        *(_named(told.judge), told.how, told.criterion, told.seed if told.principles else 0),
        *(_file(path, name) for name, path in (("rubric", told.rubric), ("principles", told.principles))),
        asked if is_address(told.judge) else (),
    )
    return {"is": config.judge, "sha256": hashlib.sha256(json.dumps(fields).encode("utf-8")).hexdigest()}


def rater_name(config: JudgeConfig) -> str:
    """Name a judge in rows and tables: by its model, what it is asked, and by what it compares.

    Args:
        config: who judges, and how.

    Example:
        >>> rater_name(JudgeConfig(judge="models/smollm2-135m", how="scores", rubric="rubrics/kind.toml"))
        'smollm2-135m/scores/kind'
    """
    files = (Path(path).stem for path in (config.rubric, config.principles) if path)
    return "/".join([short_name(config.judge), *(() if config.how == "pairs" else (config.how,)), *files])


def short_name(judge: str) -> str:
    """Shorten what names a judge to what rows and tables call it.

    Args:
        judge: as ``JudgeConfig.judge`` has it.

    Example:
        >>> short_name("models/smollm2-135m"), short_name("reward:runs/mine"), short_name("judges/mine.py:longer")
        ('smollm2-135m', 'reward:mine', 'mine.py:longer')
        >>> short_name("http://127.0.0.1:8000/v1#small")
        'small'
    """
    if is_address(judge):
        return judge.rpartition("#")[2]
    kind, colon, path = judge.partition(":")
    if colon and kind in ("reward", "scores"):
        return f"{kind}:{short_name(path)}"
    return judge.rstrip("/").replace("\\", "/").rpartition("/")[2]


def _named(judge: str) -> str:
    """Hash what a judge's name stands for: a model, or where one is served."""
    if is_address(judge):
        return judge
    if judge.startswith("reward:"):
        return f"reward {model_digest(judge.removeprefix('reward:'), 'reward')}"
    path = split_stage(judge)[0]
    if not local(path).exists():
        raise RunError(f"judge {judge}: there is no such run folder, checkpoint or file")
    at = policy_path(judge, default=first_finished(judge, (*POLICY_STAGES, "reward")), or_reward=True)
    return f"model {model_digest(str(at.path), at.stage)}"


def _file(path: str, field: str) -> str:
    if not path:
        return ""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{field} {path}: it cannot be read ({error.strerror or error})") from error
