"""What a judge is made of, by content, so that nothing goes on with another judge of the same name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from rlhf_jax.judges.config import JudgeConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import first_finished, model_digest
from rlhf_jax.runs.made_of import Ingredient, of_callable
from rlhf_jax.runs.stage_path import policy_path, split_stage
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
    if ".py:" in config.judge:
        return of_callable(config.judge, load_function(config.judge.removeprefix("scores:"), f"judge {config.judge}"))
    told = {**dataclasses.asdict(config), "judge": _named(config.judge)}
    for field in ("rubric", "principles"):
        if told[field]:
            told[field] = _file(told[field], field)
    text = json.dumps(told, sort_keys=True, default=str)
    return {"is": config.judge, "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}


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
    if judge.startswith(("http://", "https://")):
        return judge.rpartition("#")[2]
    kind, colon, path = judge.partition(":")
    if colon and kind in ("reward", "scores"):
        return f"{kind}:{short_name(path)}"
    return judge.rstrip("/").replace("\\", "/").rpartition("/")[2]


def _named(judge: str) -> str:
    """Hash what a judge's name stands for: a model, or a file."""
    if judge.startswith(("http://", "https://")):
        return judge
    if judge.endswith(".toml"):
        return _file(judge, "judge")
    if judge.startswith("reward:"):
        return f"reward {model_digest(judge.removeprefix('reward:'), 'reward')}"
    path = split_stage(judge)[0]
    if not path.exists():
        raise RunError(f"judge {judge}: there is no such run folder, checkpoint or file")
    at = policy_path(judge, default=first_finished(judge, (*POLICY_STAGES, "reward")), or_reward=True)
    return f"model {model_digest(str(at.path), at.stage)}"


def _file(path: str, field: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{field} {path}: it cannot be read ({error.strerror or error})") from error
