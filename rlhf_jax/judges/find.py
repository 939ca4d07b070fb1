"""From what names a judge to the judge."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from rlhf_jax.data.rows import prompt_text
from rlhf_jax.feedback.judges import Judge, from_scores
from rlhf_jax.feedback.principles import PrinciplesError, read_principles
from rlhf_jax.feedback.rubrics import Criterion, Rubric, RubricError, read_rubric
from rlhf_jax.judges.asking import BETTER
from rlhf_jax.judges.config import JudgeConfig
from rlhf_jax.judges.endpoint import Endpoint, EndpointConfig, EndpointError, read_address
from rlhf_jax.judges.language_model import LanguageModel
from rlhf_jax.judges.voting import AskingJudge, Criteria, always
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.pretrained import is_checkpoint, scores_text
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.stage_names import POLICY_STAGES


def find_judge(config: JudgeConfig) -> Judge:
    """Find the judge that a config names.

    Args:
        config: who judges and how.

    Returns:
        The judge, which ``feedback.judges.judged`` asks.

    Raises:
        RunError: when it cannot be loaded, or what it is told does not go with its kind.
    """
    config = resolved(config)
    name = config.judge
    if not is_asked(name):
        if beside := [field for field in ("criterion", "rubric", "principles") if vars(config)[field]]:
            raise RunError(f"judge {name} is no language model, which a {beside[0]} is shown to: leave it out")
        if config.how != "pairs":
            raise RunError(f"judge {name} is no language model, which is asked for {config.how}: leave how out")
    if is_address(name):
        return AskingJudge(_endpoint(name, config.endpoint), config.how, criteria_of(config))
    if config.endpoint != EndpointConfig():
        raise RunError(
            f"judge {name} is no endpoint, which endpoint.* are for: leave them out, or name http://...#MODEL"
        )
    if name.startswith("scores:"):
        return from_scores(load_function(name.removeprefix("scores:"), f"judge {name}"))
    if name.startswith("reward:"):
        return from_scores(Scorer.load(name.removeprefix("reward:")))
    if _is_function(name):
        return load_function(name, f"judge {name}")
    if (folder := _reward_model(name)) is not None:
        return from_scores(Scorer.load(folder))
    criteria = criteria_of(config)  # before a model is loaded in vain
    return AskingJudge(LanguageModel.load(name), config.how, criteria)


def resolved(config: JudgeConfig) -> JudgeConfig:
    """Read the judge's own file, where one is named: the config that says the same without it.

    Args:
        config: who judges and how; where ``judge`` is a .toml file, the fields that it does not have are these.

    Returns:
        The config, whose judge is no file of fields.

    Raises:
        RunError: when the file cannot be read, has another field, or says what the config says otherwise.
    """
    if not config.judge.lower().endswith(".toml"):
        return config
    path = Path(config.judge)
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RunError(f"judge {path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise RunError(f"judge {path}: is no TOML ({error})") from error
    names = [field.name for field in dataclasses.fields(JudgeConfig)]
    if unknown := next((name for name in fields if name not in names), ""):
        raise RunError(f"judge {path}: unknown field {unknown!r}: it may have {', '.join(names)}")
    if "judge" not in fields:
        raise RunError(f'judge {path}: says not who judges: write judge = "RUN" or another name of one')
    if str(fields["judge"]).lower().endswith(".toml"):
        raise RunError(f"judge {path}: judge names another file of this kind, {fields['judge']}: name the judge itself")
    if "endpoint" in fields:
        fields["endpoint"] = _endpoint_fields(fields["endpoint"], path)
    blank = JudgeConfig(judge=config.judge)
    for field in fields:
        if field != "judge" and vars(config)[field] not in (vars(blank)[field], fields[field]):
            raise RunError(f"judge {path} has a {field} of its own: leave it out there or here")
    try:
        return dataclasses.replace(config, **fields)
    except (TypeError, ValueError) as error:
        raise RunError(f"judge {path}: {error}") from error


def _endpoint_fields(table: Any, path: Path) -> EndpointConfig:
    """Make the table ``[endpoint]`` of a judge's own file a config."""
    names = [field.name for field in dataclasses.fields(EndpointConfig)]
    if not isinstance(table, dict):
        raise RunError(f"judge {path}: endpoint must be a table, [endpoint] with lines below it, found {table!r:.80}")
    if unknown := next((name for name in table if name not in names), ""):
        raise RunError(f"judge {path}: unknown field endpoint.{unknown}: it may have {', '.join(names)}")
    try:
        return EndpointConfig(**table)
    except ValueError as error:
        raise RunError(f"judge {path}: endpoint.{error}") from error


def criteria_of(config: JudgeConfig) -> Criteria:
    """Find by what the responses to a prompt are compared.

    Args:
        config: with a criterion, a rubric, principles, or none of them.

    Returns:
        The criteria of a prompt.

    Raises:
        RunError: when a file cannot be used.
    """
    try:
        if config.rubric:
            return _checked(read_rubric(config.rubric), config)
        if config.principles:
            principles = read_principles(config.principles)
            return lambda prompt: (Criterion(principles.draw(config.seed, prompt_text(prompt)).text),)
    except RubricError as error:
        raise RunError(f"rubric {error}") from error
    except PrinciplesError as error:
        raise RunError(f"principles {error}") from error
    return always(Criterion(config.criterion.strip()) if config.criterion else BETTER)


def _checked(rubric: Rubric, config: JudgeConfig) -> Criteria:
    """Refuse a rubric whose questions are asked otherwise than the config says."""
    shows = {"pairs": "{first}", "scores": "{response}", "ranking": "{responses}"}[config.how]
    for criterion in rubric.criteria:
        asked = criterion.completion or criterion.question
        if asked and shows not in asked:
            raise RunError(
                f"rubric {config.rubric}: {criterion.name} has a question of its own without {shows}, which "
                f"how = {config.how} shows: change how, or the question"
            )
    return always(*rubric.criteria)


def is_asked(name: str) -> bool:
    """Whether what a name means is asked questions: a language model here, or one behind an address.

    Args:
        name: as ``JudgeConfig.judge`` has it; no .toml file.

    Example:
        >>> is_asked("runs/mine:ppo"), is_asked("reward:runs/mine"), is_asked("mine.py:longer")
        (True, False, False)
    """
    if is_address(name):
        return True
    own = name.startswith(("scores:", "reward:")) or _is_function(name)
    return not own and _reward_model(name) is None


def is_address(name: str) -> bool:
    """Whether a judge's name is the address of an endpoint."""
    return name.startswith(("http://", "https://"))


def _endpoint(name: str, config: EndpointConfig) -> Endpoint:
    try:
        return Endpoint(read_address(name), config)
    except EndpointError as error:
        raise RunError(str(error)) from error


def _is_function(name: str) -> bool:
    path, _, function = name.rpartition(":")
    return path.lower().endswith(".py") and function.isidentifier()


def _reward_model(name: str) -> str | None:
    """Find the folder of the reward model that a path means: it is named, or there is no language model beside it."""
    path, stage = split_stage(name)
    folder = local(path)
    if is_checkpoint(folder):
        alone = scores_text(folder)
    else:
        alone = [each for each in ("reward", *POLICY_STAGES) if (folder / "params" / each).exists()] == ["reward"]
    return str(path) if stage == "reward" or (stage is None and alone) else None
