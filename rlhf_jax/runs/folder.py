"""The run folder, and what a stage leaves in it.

RUN/config.json           every field of every stage that ran here
RUN/tokenizer.json        the tokenizer all stages of the folder share
RUN/made_of.json          what each stage is made of, by content, and when it was begun and finished
RUN/.lock                 who is writing here
RUN/metrics.jsonl         one row a step: {"stage", "step", ...}
RUN/events/<stage>/       the same for TensorBoard
RUN/checkpoints/<stage>/  to continue an interrupted stage
RUN/dumps/<stage>/        state and batch of a stage whose updates were not finite too often in a row
RUN/goodput.jsonl         where the time of each stage went, over all its restarts
RUN/hung_<stage>_process<n>.txt  stacks of the threads of a process that hung
RUN/params/<stage>/       the final parameters; their presence says that the stage is complete
RUN/samples.jsonl         responses of the SFT policy and of the last policy stage that ran here
RUN/heldout_samples.jsonl all responses of each policy stage's first and latest evaluation
RUN/summary.json          the results
RUN/report.html           curves, tables and samples to look at
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from rlhf_jax import checkpoint, models, processes
from rlhf_jax.data import Tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.runs.circumstances import circumstances
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fingerprint import brought_up, fingerprint, renamed
from rlhf_jax.runs.identity import identity
from rlhf_jax.runs.loading import Base, load_stage
from rlhf_jax.runs.made_of import ACCEPTABLE, MADE_OF, Ingredients, changed, read_ingredients
from rlhf_jax.runs.store import mirror_of
from rlhf_jax.runs.store.checkpoints import send_params
from rlhf_jax.stage_names import MODEL_STAGES
from rlhf_jax.targets import check_folder
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


def begun(directory: Path) -> list[str]:
    """List the stages of which the folder holds anything that can be continued or used: a checkpoint, or parameters.

    What else a command has left that failed, binds nobody.
    """
    left = [*directory.glob("checkpoints/*/*"), *directory.glob("params/*")]
    found = {path.parent.name if path.name.isdecimal() else path.name for path in left if path.is_dir()}
    return [stage for stage in MODEL_STAGES if stage in found]


def binds(directory: Path) -> bool:
    """Whether the tokenizer of a folder counts: not where a command left it that failed before its first checkpoint."""
    return bool(begun(directory)) or not (directory / MADE_OF).exists()


def start(directory: Path, stage: str, config: Any, tokenizer: Tokenizer, made_of: Ingredients) -> None:
    """Write a stage's config, its ingredients and its tokenizer, once everything that can be checked has been.

    Raises:
        RunError: when the stage was begun with other ingredients, or the folder has another tokenizer.
    """
    processes.from_first(lambda: _start(directory, stage, config, tokenizer, made_of), f"writing {directory}")


def _start(directory: Path, stage: str, config: Any, tokenizer: Tokenizer, made_of: Ingredients) -> None:
    path, here = directory / "tokenizer.json", begun(directory)
    record = read_record(directory / MADE_OF).get(stage, {}) if stage in here else {}
    differ = changed(read_ingredients(record, f"{directory / MADE_OF}"), made_of, config.accept_changed)
    if differ:
        raise RunError(
            f"{directory} holds a {stage} stage that was begun with something else: {'; '.join(differ[:3])}. Bring "
            f"back what it was begun with, or name another folder with --out{_acceptable(differ)}"
        )
    if binds(directory) and path.exists() and path.read_text(encoding="utf-8") != tokenizer.to_json():
        raise RunError(f"{directory} has another tokenizer than the stage it builds on: name another folder with --out")
    directory.mkdir(parents=True, exist_ok=True)
    update_json(directory / "config.json", {stage: dataclasses.asdict(config)})
    noted = {"begun": record.get("begun", _now()), "directory": os.getcwd(), "made_of": made_of}
    update_json(directory / MADE_OF, {stage: noted})
    tokenizer.save(path)


def _acceptable(differ: list[str]) -> str:
    names = list(dict.fromkeys(text.split(" ")[0].split(".")[0] for text in differ))
    if not set(names) <= set(ACCEPTABLE):
        return ""
    return f"; --accept-changed {' '.join(names)} goes on with what is there now"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


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
    update_json(directory / MADE_OF, {stage: {"finished": _now()}})
    update_json(
        directory / "summary.json",
        {
            stage: summary,
            "seconds": {stage: seconds},
            "made": {stage: circumstances()},
            "params_sha256": {stage: hashed},
            "seed": config.seed,
            "peak_rss_mib": max(peak_rss_mib(), read_record(directory / "summary.json").get("peak_rss_mib", 0.0)),
            "versions": versions(),
        },
    )
    metadata = {"model": dataclasses.asdict(model_config), "identity": identity(stage, hashed, tokenizer)}
    if base is not None:
        metadata["base"] = base.to_json(directory)
    checkpoint.save_params(directory / "params" / stage, own, metadata)
    if mirror := mirror_of(directory):
        send_params(mirror, stage)
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
        TargetError: when nothing can be written here, which an unfinished stage has to.
    """
    return processes.from_first(lambda: _finished(directory, stage, config), f"opening {directory}")


def _finished(directory: Path, stage: str, config: Any) -> bool:
    begun_with = read_record(directory / "config.json").get(stage)
    differ = []
    if begun_with is not None and stage in begun(directory):
        differ = checkpoint.differences(brought_up(begun_with, config), fingerprint(config))
        if not read_record(directory / MADE_OF).get(stage):
            differ += renamed(begun_with, config)
    if differ:
        raise RunError(
            f"{directory} holds a {stage} stage of another config ({'; '.join(differ[:3])}). "
            "Name another folder with --out."
        )
    if (directory / "params" / stage).exists():
        return True
    check_folder(directory, "out")
    return False


def check_unchanged(directory: Path, stage: str, config: Any, made_of: Ingredients) -> None:
    """Say that a stage is finished, and since when.

    Args:
        directory: the run folder.
        stage: the stage, which is complete.
        config: its config.
        made_of: what it would be made of now, as far as that is still there.

    Raises:
        RunError: when it was made of something else, so that its result is not what was asked for.
    """

    def differences() -> list[str]:
        was = read_ingredients(read_record(directory / MADE_OF).get(stage, {}), f"{directory / MADE_OF}")
        return changed(was, made_of, config.accept_changed, all_given=False)

    differ = processes.from_first(differences, f"opening {directory}")
    when = processes.from_first(lambda: _finished_at(directory, stage), f"opening {directory}")
    if differ:
        raise RunError(
            f"{directory} holds a {stage} stage that was finished on {when} with something else: "
            f"{'; '.join(differ[:3])}. Its result is none of what is there now: name another folder with --out to "
            f"train on that, or look at the old result with rlhf report {directory}"
        )
    if processes.first():
        print(
            f"{stage}: finished before, on {when}; {directory} is returned as it is, and nothing is trained (another "
            "--out does it again)",
            file=sys.stderr,
        )


def _finished_at(directory: Path, stage: str) -> str:
    noted = read_record(directory / MADE_OF).get(stage, {}).get("finished")
    try:
        when = datetime.datetime.fromisoformat(noted)
    except (TypeError, ValueError):  # an earlier version did not note it
        when = datetime.datetime.fromtimestamp((directory / "params" / stage).stat().st_mtime).astimezone()
    return f"{when:%Y-%m-%d %H:%M %Z}"


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
