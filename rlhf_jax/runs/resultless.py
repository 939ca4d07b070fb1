"""Stages that others build on although they came to no result, or to no end: what there is to say of them."""

from __future__ import annotations

import warnings
from pathlib import Path

from rlhf_jax.models.weights import read_object


def failure(directory: Path, stage: str) -> str:
    """Say what a stage failed at whose parameters a run folder holds.

    Args:
        directory: the run folder.
        stage: the stage's name.

    Returns:
        A sentence; empty where the stage has a result, or the folder does not say.

    Raises:
        CheckpointError: when the folder's ``summary.json`` is damaged.

    Example:
        >>> failure(Path("runs/none"), "sft")
        ''
    """
    path = directory / "summary.json"
    figures = read_object(path).get(stage) if path.is_file() else None
    why = figures.get("failed") if isinstance(figures, dict) else None
    if not why:
        return ""
    return f"the {stage} stage of {directory} came to no result: {why}; what is made of it has none either"


def warn_of_failure(directory: Path, stage: str) -> None:
    """Warn, once in a process, that a model is read which a stage without a result has left."""
    if said := failure(directory, stage):
        warnings.warn(said, stacklevel=1)


def is_begun(directory: Path, stage: str) -> bool:
    """Whether a folder holds a stage that was interrupted: checkpoints to go on from, and no parameters."""
    steps = (directory / "checkpoints" / stage).glob("*")
    return not (directory / "params" / stage).exists() and any(step.name.isdecimal() for step in steps)
