"""The run folder, and what a stage leaves in it.

RUN/config.json           every field of every stage that ran here
RUN/tokenizer.json        the tokenizer all stages of the folder share
RUN/metrics.jsonl         one row a step: {"stage", "step", ...}
RUN/events/<stage>/       the same for TensorBoard
RUN/checkpoints/<stage>/  to continue an interrupted stage
RUN/dumps/<stage>/        state and batch of a stage whose updates were not finite too often in a row
RUN/goodput.jsonl         where the time of each stage went, over all its restarts
RUN/hung_<stage>_process<n>.txt  stacks of the threads of a process that hung
RUN/params/<stage>/       the final parameters; their presence says that the stage is complete
RUN/samples.jsonl         responses of the SFT policy and of the last policy stage that ran here
RUN/summary.json          the results
RUN/report.html           curves, tables and samples to look at
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import platform
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import checkpoint, models, processes
from rlhf_jax.data import Tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import Base, load_stage
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.training import read_metrics
from rlhf_jax.types import Model, Params


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a stage: its final parameters, what it logged, and its summary.

    ``params`` are by role, ``{"policy": ...}`` or ``{"reward": ...}``; ``metrics`` are the rows that were logged;
    ``summary`` holds the stage's results, as ``summary.json`` does.
    """

    params: Params
    model: Model
    model_config: models.ModelConfig
    tokenizer: Tokenizer
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    directory: Path
    config: Any


def read_record(path: Path) -> dict[str, Any]:
    """Read the object in one of the folder's JSON files; it is empty when there is no such file.

    Raises:
        RunError: when the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not JSON ({error}); bring it back, or name another folder") from error
    if not isinstance(found, dict):
        raise RunError(f"{path}: expected an object, found {found!r:.60}; bring it back, or name another folder")
    return found


def update_json(path: Path, values: dict[str, Any]) -> None:
    """Merge top-level keys into a JSON file, in the first process; nested objects are merged one level deep."""
    if not processes.first():
        return
    merged = read_record(path)
    for key, value in values.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
    write_json(path, merged)


# What may change between a run and its continuation: where things lie, how often they are saved, the devices, what is
# computed again to save memory, what difference between sampler and trainer stops the run, when it counts as hung, who
# is told of it, and whether an objective is looked at first.
_PLACES = frozenset(
    {
        "out",
        "init",
        "policy",
        "reward_model",
        "mesh",
        "rollout_mesh",
        "offload",
        "remat",
        "checkpoint_every",
        "keep_checkpoints",
        "max_logprob_gap",
        "watchdog_seconds",
        "watchdog_exit",
        "tracker",
        "check",
    }
)


# The same of a model: how its numbers are computed, not which.
_HOW = frozenset({"remat", "attention"})


def fingerprint(config: Any) -> dict[str, Any]:
    """Take the fields of a config that decide the result, as JSON values."""
    return _deciding(json.loads(json.dumps(dataclasses.asdict(config))))


def _deciding(fields: dict[str, Any]) -> dict[str, Any]:
    deciding = {k: v for k, v in fields.items() if k not in _PLACES}
    if isinstance(deciding.get("model"), dict):
        deciding["model"] = {k: v for k, v in deciding["model"].items() if k not in _HOW}
    if isinstance(deciding.get("judge"), str):  # a single one, as earlier versions wrote it
        deciding["judge"] = [f"gold={deciding['judge']}"] if deciding["judge"] else []
    # Where a folder lies has no say in the result; whose policy of it the stage starts from has.
    stage = split_stage(fields.get("init") or fields.get("policy") or "")[1]
    return {**deciding, "starts_from": stage} if stage in POLICY_STAGES and stage != "sft" else deciding


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


def checkpoints(directory: Path, stage: str, config: Any, fingerprint: Mapping[str, Any]) -> checkpoint.Checkpoints:
    """Open the checkpoints of a stage; ``fingerprint`` is the config's, and what else the result depends on."""
    return checkpoint.Checkpoints(
        directory / "checkpoints" / stage,
        fingerprint=fingerprint,
        keep=config.keep_checkpoints,
        brought_up=functools.partial(brought_up, config=config),
    )


def _with_new_fields(begun: dict[str, Any], config: Any) -> dict[str, Any]:
    """Complete a config of an earlier version with the defaults of newer fields, which did nothing then."""
    known = dict(begun)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in begun:
            if field.default is not dataclasses.MISSING:
                default: Any = field.default
                known[field.name] = default if not dataclasses.is_dataclass(default) else dataclasses.asdict(default)  # type: ignore[arg-type]
            elif field.default_factory is not dataclasses.MISSING:
                known[field.name] = field.default_factory()
        elif dataclasses.is_dataclass(value) and isinstance(begun[field.name], dict):
            known[field.name] = _with_new_fields(begun[field.name], value)
    return known


def start(directory: Path, stage: str, config: Any, tokenizer: Tokenizer) -> None:
    """Write a stage's config and tokenizer into its run folder, once its data is known to be good.

    Raises:
        RunError: when the folder has another tokenizer already.
    """
    processes.from_first(lambda: _start(directory, stage, config, tokenizer), f"writing {directory}")


def _start(directory: Path, stage: str, config: Any, tokenizer: Tokenizer) -> None:
    path = directory / "tokenizer.json"
    if path.exists() and path.read_text(encoding="utf-8") != tokenizer.to_json():
        raise RunError(f"{directory} has another tokenizer than the stage it builds on: name another folder with --out")
    directory.mkdir(parents=True, exist_ok=True)
    update_json(directory / "config.json", {stage: dataclasses.asdict(config)})
    tokenizer.save(path)


def finish(
    directory: Path,
    stage: str,
    config: Any,
    *,
    params: Params,
    model_config: models.ModelConfig,
    tokenizer: Tokenizer,
    metrics: list[dict[str, Any]],
    summary: dict[str, Any],
    seconds: float,
    base: Base | None = None,
) -> RunResult:
    """Write a stage's results, and its final parameters last of all: from then on the stage is complete.

    Where adapters stand on a ``base``, only adapters and heads are written; the trunk stays where it is.
    """
    own = {role: models.split(x)[0] for role, x in params.items()}
    hashed = checkpoint.tree_sha256(own)
    update_json(
        directory / "summary.json",
        {
            stage: summary,
            "seconds": {stage: seconds},
            "params_sha256": {stage: hashed},
            "seed": config.seed,
            "peak_rss_mib": max(peak_rss_mib(), read_record(directory / "summary.json").get("peak_rss_mib", 0.0)),
            "versions": versions(),
        },
    )
    metadata = {"model": dataclasses.asdict(model_config)}
    if base is not None:
        metadata["base"] = base.to_json(directory)
    checkpoint.save_params(directory / "params" / stage, own, metadata)
    return RunResult(params, models.build(model_config), model_config, tokenizer, metrics, summary, directory, config)


def load_result(directory: Path, stage: str, config: Any) -> RunResult:
    """Read the result of a stage that was completed before."""
    params, model_config, tokenizer = load_stage(directory, stage)
    metrics = processes.from_first(lambda: read_metrics(directory / "metrics.jsonl", stage), "reading metrics")
    summary = processes.from_first(lambda: read_record(directory / "summary.json")[stage], "reading a summary")
    return RunResult(params, models.build(model_config), model_config, tokenizer, metrics, summary, directory, config)


def finished(directory: Path, stage: str, config: Any) -> bool:
    """Whether this folder holds the complete stage.

    Raises:
        RunError: when the stage was begun here with another config; the message names the fields that differ.
    """
    return processes.from_first(lambda: _finished(directory, stage, config), f"opening {directory}")


def _finished(directory: Path, stage: str, config: Any) -> bool:
    begun = read_record(directory / "config.json").get(stage)
    differ = []
    if begun is not None:
        differ = checkpoint.differences(brought_up(begun, config), fingerprint(config))
    if differ:
        raise RunError(
            f"{directory} holds a {stage} stage of another config ({'; '.join(differ[:3])}). "
            "Name another folder with --out."
        )
    return (directory / "params" / stage).exists()


def versions() -> dict[str, str]:
    """Look up the versions of everything that can change a number, as far as it is installed."""
    names = (
        "rlhf-jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "tokenizers",
        "numpy",
        "scikit-learn",
    )
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not all stages need all of them
            found[name] = importlib.metadata.version(name)
    return found


def peak_rss_mib() -> float:
    """Measure the most memory that this process has held, MiB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):  # Linux's ru_maxrss also counts what the process that started this one held
            return round(int(line.split()[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if platform.system() == "Darwin" else 2**10), 1)
