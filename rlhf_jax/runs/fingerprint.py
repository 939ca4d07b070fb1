"""Which fields of a config decide the result, and whether those of a run that was begun are still the same.

What a field names, a file of rows or of code, is no part of it: ``made_of`` knows that by content.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import checkpoint
from rlhf_jax.runs.made_of import Ingredients, changed
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.runs.store import mirror_of
from rlhf_jax.runs.store.checkpoints import StoredCheckpoints
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.training import CheckpointStore

# What may change between a run and its continuation: where things lie, how often they are saved, the devices, what is
# computed again to save memory, what difference between sampler and trainer stops the run, when it counts as hung, who
# is told of it, and whether an objective is looked at first.
_PLACES = frozenset(
    {
        "out",
        "init",
        "policy",
        "reference",
        "reward_model",
        "reward",
        "judge",
        "eval_tasks",
        "mesh",
        "rollout_mesh",
        "offload",
        "remat",
        "checkpoint_every",
        "keep_checkpoints",
        "max_logprob_gap",
        "watchdog_seconds",
        "watchdog_exit",
        "accept_changed",
        "tracker",
        "check",
    }
)

# The same of a model: how its numbers are computed, not which.
_HOW = frozenset({"remat", "attention"})
# The fields of a data set that name rows.
_ROWS = ("source", "split", "heldout", "test")
_CODE = re.compile(r".*\.py(:\w+)", re.DOTALL)


def fingerprint(config: Any, made_of: Ingredients | None = None) -> dict[str, Any]:
    """Take the fields of a config that decide the result, as JSON values, and what the stage is made of."""
    deciding = _deciding(json.loads(json.dumps(dataclasses.asdict(config))))
    return deciding if made_of is None else {**deciding, "made_of": json.loads(json.dumps(made_of))}


def _deciding(fields: dict[str, Any]) -> dict[str, Any]:
    deciding = {k: _without_paths(v) for k, v in fields.items() if k not in _PLACES}
    if isinstance(deciding.get("model"), dict):
        deciding["model"] = {k: v for k, v in deciding["model"].items() if k not in _HOW}
    # Where a folder lies has no say in the result; whose policy of it the stage starts from has.
    if fields.get("reference"):
        deciding["own_reference"] = True
    stage = split_stage(fields.get("init") or fields.get("policy") or "")[1]
    return {**deciding, "starts_from": stage} if stage in POLICY_STAGES and stage != "sft" else deciding


def _without_paths(value: Any) -> Any:
    """Leave out where rows lie, and the file of a function; whether ``prompts`` are others than ``data`` stays."""
    if isinstance(value, dict):
        named = {"source"} <= set(value)
        kept = {k: _without_paths(v) for k, v in value.items() if not (named and k in _ROWS)}
        return {"given": bool(value["source"]), **kept} if named else kept
    if isinstance(value, list):
        return [_without_paths(x) for x in value]
    if isinstance(value, str) and (code := _CODE.fullmatch(value)):
        return code[1]
    return value


def brought_up(saved: dict[str, Any], config: Any) -> dict[str, Any]:
    """Bring a fingerprint that an earlier version saved up to the fields of this one, to compare it with ``config``'s.

    Example:
        >>> from rlhf_jax.rollout import SamplingConfig
        >>> saved = fingerprint(SamplingConfig(window=4))
        >>> del saved["int8"]
        >>> brought_up(saved, SamplingConfig()) == fingerprint(SamplingConfig(window=4))
        True
    """
    # Tuples as lists, as they are written.
    return _deciding(json.loads(json.dumps(_with_new_fields(saved, config))))


def checkpoints(directory: Path, stage: str, config: Any, fingerprint: Mapping[str, Any]) -> CheckpointStore:
    """Open the checkpoints of a stage; ``fingerprint`` is the config's, and what else the result depends on."""
    now = dict(fingerprint).get("made_of", {})

    def compared(saved: dict[str, Any]) -> dict[str, Any]:
        was = saved.pop("made_of", now)  # an earlier version's does not say
        same = not changed(was, now, config.accept_changed)
        return {**brought_up(saved, config), **({"made_of": now if same else was} if now else {})}

    here = checkpoint.Checkpoints(
        directory / "checkpoints" / stage, fingerprint=fingerprint, keep=config.keep_checkpoints, brought_up=compared
    )
    mirror = mirror_of(directory)
    return here if mirror is None else StoredCheckpoints(here, mirror)


def renamed(begun: dict[str, Any], config: Any) -> list[str]:
    """List the names of rows and code that are not what they were, for a run that noted no content.

    A file is the same under any path that leads to it.
    """
    known = json.loads(json.dumps(_with_new_fields(begun, config)))
    return _renamed(known, json.loads(json.dumps(dataclasses.asdict(config))), "")


def _renamed(was: Any, now: Any, path: str) -> list[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [k for k in now if k in was and k not in _PLACES - {"judge"}]
        return [said for k in keys for said in _renamed(was[k], now[k], f"{path}.{k}" if path else k)]
    named = path.split(".")[-1] in _ROWS or path == "judge" or _CODE.fullmatch(str(was))
    if was == now or not named or _known_as(was) == _known_as(now):
        return []
    return [f"{path} was {json.dumps(was)} and is now {json.dumps(now)}"]


def _known_as(value: Any) -> Any:
    """Resolve the paths in what a field names; an earlier version had one judge, without a name."""
    if isinstance(value, list):
        judges = {name: what for name, _, what in (str(judge).partition("=") for judge in value)}
        return (
            {name: _real(what) for name, what in judges.items()} if list(judges) != ["gold"] else _real(judges["gold"])
        )
    return _real(value)


def _real(name: Any) -> str:
    path, code = str(name), _CODE.fullmatch(str(name))
    end = code[1] if code else ""
    return str(Path(path.removesuffix(end)).resolve()) + end if path else ""


def _with_new_fields(begun: dict[str, Any], config: Any) -> dict[str, Any]:
    """Complete a config of an earlier version with the defaults of newer fields, which did nothing then."""
    known = dict(begun)
    for field in dataclasses.fields(config):
        value = vars(config)[field.name]
        if field.name not in begun:
            if field.default is not dataclasses.MISSING:
                default: Any = field.default
                known[field.name] = default if not dataclasses.is_dataclass(default) else dataclasses.asdict(default)  # type: ignore[arg-type]
            elif field.default_factory is not dataclasses.MISSING:
                known[field.name] = field.default_factory()
        elif dataclasses.is_dataclass(value) and isinstance(begun[field.name], dict):
            known[field.name] = _with_new_fields(begun[field.name], value)
    return known
