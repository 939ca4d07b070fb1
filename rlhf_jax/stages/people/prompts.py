"""The prompts of a run, found again from the config that its folder keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from rlhf_jax.data import layouts
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.errors import DataError, OnBadRow
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.rows import Prompt
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.folder import read_record
from rlhf_jax.runs.loading import first_finished
from rlhf_jax.runs.stage_path import StagePath, policy_path, split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.stages import sources


def policy_of(run: str) -> StagePath:
    """Find the policy that ``Policy.load`` takes: a checkpoint, the stage that is named, or the furthest one.

    Args:
        run: a run folder, ``RUN:STAGE`` or a checkpoint.
    """
    return policy_path(run, default=first_finished(run, POLICY_STAGES))


def is_file(source: str) -> bool | None:
    """Tell a file of rows from a run or a checkpoint; None where there is neither.

    Args:
        source: a file, a run folder, ``RUN:STAGE`` or a checkpoint.
    """
    if not local(split_stage(source)[0]).exists():
        return None
    return Path(source).is_file() and Path(source).suffix != ".gguf"


def prompts_to_ask(
    source: str, named: str, part: Literal["train", "validation", "test"], on_bad_row: OnBadRow
) -> tuple[list[Prompt], bool]:
    """Read the prompts of a file where one is named, and else those of a run.

    Args:
        source: the run.
        named: the file; empty for none.
        part: as for ``prompts_of_run``.
        on_bad_row: what a bad row of the file does.

    Returns:
        As ``prompts_of_run``; no chat template is applied to what a file holds.
    """
    return (prompts_of_file(named, on_bad_row), False) if named else prompts_of_run(source, part)


def prompts_of_run(run: str, part: Literal["train", "validation", "test"]) -> tuple[list[Prompt], bool]:
    """Read prompts of a run from where its stage read them.

    Args:
        run: a run folder, or ``RUN:STAGE``.
        part: those that it trained on, chose its checkpoint by, or was measured on at its end.

    Returns:
        The prompts, each once, and whether the chat template is applied to them already.

    Raises:
        RunError: the run is a checkpoint, its data are code of somebody's, or its config does not name them.
        DataError: the data cannot be read any more.
    """
    at = policy_of(run)
    instead = "name a file of prompts with --prompts FILE.jsonl"
    if not at.stage:
        raise RunError(f"{run} is a checkpoint, which has no prompts of its own: {instead}")
    record = read_record(at.path / "config.json").get(at.stage)
    fields = record.get("data") if isinstance(record, dict) else None
    if not isinstance(fields, dict):
        raise RunError(f"{at.path / 'config.json'} does not say what the {at.stage} stage read: {instead}")
    known = {field.name for field in dataclasses.fields(DataConfig)}
    try:
        config = DataConfig(**{name: value for name, value in fields.items() if name in known})
    except (TypeError, ValueError) as error:
        raise RunError(f"{at.path / 'config.json'}, {at.stage}.data: {error}; {instead}") from error
    if ".py:" in config.source:
        raise RunError(f"{run} reads its data by code, {config.source}, which a run folder cannot ask for: {instead}")
    try:
        rows = sources.prompts(config)
        found = {"train": rows.train, "validation": rows.validation, "test": rows.test}[part]
    except (DataError, OSError) as error:
        raise DataError(f"the prompts of {run} cannot be read again: {error}; or {instead}") from error
    return list(dict.fromkeys(row.prompt for row in found)), config.templated


def prompts_of_file(path: str, on_bad_row: OnBadRow) -> list[Prompt]:
    """Read the prompts of a file, each once.

    Args:
        path: rows of any layout that has a prompt.
        on_bad_row: what a bad row does.
    """
    return list(dict.fromkeys(row.prompt for row in read_rows(path, layouts.prompt, on_bad_row)))
