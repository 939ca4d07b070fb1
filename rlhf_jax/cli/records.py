"""``--config RUN/config.json``: the config that a run folder holds, to go on with the run or to do it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.cli.parsing import UsageError


def recorded_config(path: str, default: Any, argv: Sequence[str]) -> Any:
    """Read the config of a stage from a run folder's ``config.json``.

    Args:
        path: the file. Where it is called ``config.json``, its folder is the run's, wherever that lies by now: the run
            goes on there, unless ``--out`` names another folder, in which it is done again.
        default: the default config of the stage that is meant.
        argv: the other words; a Python file that the record names is run only where one of them names it too, as a
            run folder may be anybody's.

    Raises:
        UsageError: when the file is no such record, does not hold the stage, or holds fields that there are not.
    """
    from rlhf_jax import stages
    from rlhf_jax.cli.stage_options import from_record
    from rlhf_jax.runs.folder import read_record

    kinds: dict[str, type] = {
        "sft": stages.SFTConfig,
        "reward": stages.RewardConfig,
        "preference": stages.PreferenceConfig,
        "ppo": stages.PPOConfig,
        "group": stages.GroupConfig,
    }
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--config {path}: no such file")
    stage = next((name for name, kind in kinds.items() if type(default) is kind), "")
    try:
        record = read_record(file)
    except ValueError as error:
        raise UsageError(f"--config {error}") from error
    fields = record.get(stage)
    if not isinstance(fields, dict):
        there = ", ".join(name for name in record if name in kinds) or "no stage"
        raise UsageError(f"--config {path}: it holds the config of {there}, and {stage} is asked for")
    unknown = next(_unknown(fields, default, stage), "")
    if unknown:
        raise UsageError(f"--config {path}: there is no field {unknown}: another version wrote it, or somebody by hand")
    _refuse_code(path, fields, argv)
    if file.name == "config.json":
        fields = found_again(_moved(fields, str(file.parent)), file.parent, stage)
    try:
        return from_record(type(default)(), fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--config {path}, {stage}: {error}") from error


def _moved(fields: dict[str, Any], now: str) -> dict[str, Any]:
    """Let what names the run's own folder name the folder that it is in now."""
    before = fields.get("out", now)

    def moved(value: Any) -> Any:
        if isinstance(value, list):  # judges, NAME=RUN
            parts = [str(judge).rpartition("=") for judge in value]
            return [f"{name}{equals}{moved(run)}" for name, equals, run in parts]
        if value == before:
            return now
        stage = isinstance(value, str) and value.startswith(f"{before}:") and "/" not in value.removeprefix(before)
        return f"{now}{value.removeprefix(before)}" if stage else value

    names = ("out", "init", "policy", "reward_model", "judge")
    return {name: moved(value) if name in names else value for name, value in fields.items()}


# Fields that may hold a path, in a stage's config or in a part of it; a judge, or a task, is NAME=PATH.
_PATHS = ("source", "heldout", "test", "init", "policy", "reward_model", "judge", "eval_tasks")


def found_again(fields: dict[str, Any], run: Path, stage: str) -> dict[str, Any]:
    """Let relative paths that lead nowhere from the working folder lead from the one in which the stage was begun.

    Args:
        fields: the stage's, as ``config.json`` has them.
        run: the run folder, whose ``made_of.json`` says where the stage was begun; earlier versions did not note it.
        stage: the stage's name.
    """
    from rlhf_jax.runs.folder import read_record
    from rlhf_jax.runs.made_of import MADE_OF
    from rlhf_jax.runs.stage_path import split_stage

    noted = read_record(run / MADE_OF).get(stage)
    began = noted.get("directory") if isinstance(noted, dict) else None
    if not isinstance(began, str):
        return fields

    def found(value: Any) -> Any:
        if isinstance(value, str) and names_code(value):
            return value  # code has to be named on the command line, where it says where it is
        if isinstance(value, list):
            return [f"{name}{equals}{found(what)}" for name, equals, what in (str(x).rpartition("=") for x in value)]
        named = split_stage(value)[0] if isinstance(value, str) and value else Path(began)
        if named.is_absolute() or named.exists() or not (Path(began) / named).exists():
            return value
        return str(Path(began) / value)

    def within(part: dict[str, Any]) -> dict[str, Any]:
        return {k: within(v) if isinstance(v, dict) else found(v) if k in _PATHS else v for k, v in part.items()}

    return within(fields)


def names_code(text: str) -> bool:
    """Whether a text of a record makes a command run a file, or ask somebody: a record may be anybody's.

    A judge that votes may be a function, a file that names one, or an address that prompts and a key are sent to.

    Example:
        >>> [names_code(text) for text in ("mine.py:reward", "gold=judge:it.toml", "judge:http://a#b", "runs/x:sft")]
        [True, True, True, False]
    """
    return ".py:" in text or text.rpartition("=")[2].startswith("judge:") or text.startswith("judge:")


def _unknown(fields: dict[str, Any], default: Any, path: str) -> Iterator[str]:
    known = {field.name for field in dataclasses.fields(default)}
    for name, value in fields.items():
        if name not in known:
            yield f"{path}.{name}"
        elif dataclasses.is_dataclass(vars(default)[name]) and isinstance(value, dict):
            yield from _unknown(value, vars(default)[name], f"{path}.{name}")


def _refuse_code(path: str, fields: dict[str, Any], argv: Sequence[str]) -> None:
    """Refuse a record that names code which the command line does not, with all that has to be added."""
    unasked: dict[str, list[str]] = {}
    for name, value in _code(fields, ""):
        flag = f"--{name.replace('_', '-')}"
        flags = (flag, "--optimizer") if name.endswith(".function") else (flag,)  # the short form of them all
        if not any(word.partition("=")[0] in flags for word in argv):
            unasked.setdefault(name, []).append(value)
    if not unasked:
        return
    named = ", ".join(f"{name} {value!r}" for name, values in unasked.items() for value in values)
    # A judge on the command line stands in place of all that were recorded, run folders too.
    whole = {name: fields[name] if name == "judge" else values for name, values in unasked.items()}
    added = (f"--{name.replace('_', '-')} {value}" for name, values in whole.items() for value in values)
    raise UsageError(
        f"--config {path} names code in a file, {named}, which is run only where the command line names it too: "
        f"look at the file, and add {' '.join(added)}"
    )


def _code(fields: dict[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _code(value, f"{above}{name}.")
        else:
            texts = value if isinstance(value, list | tuple) else [value]
            yield from ((f"{above}{name}", text) for text in texts if isinstance(text, str) and names_code(text))
