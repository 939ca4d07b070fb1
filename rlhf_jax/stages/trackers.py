"""From the name of a tracker to what is given the rows of metrics: a service, or a function of the user's own."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import processes
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.stages.config import StageConfig
from rlhf_jax.training.tracking import SERVICES, Tracker, Tracking, start_service


def find_tracker(name: str) -> Tracker | str | None:
    """Find a tracker before any work is done.

    Args:
        name: ``wandb``, ``mlflow`` or ``FILE.py:function``; empty for none.

    Returns:
        The function; or the service's name, which is started with the first step; or None.

    Raises:
        RunError: when the service's package is not installed, or there is no such file or function.

    Example:
        >>> find_tracker("tensorboard")
        Traceback (most recent call last):
        ...
        rlhf_jax.runs.errors.RunError: tracker 'tensorboard': it is wandb, mlflow or FILE.py:function (events for ...
    """
    if not name:
        return None
    if name in SERVICES:
        if importlib.util.find_spec(name) is None:
            raise RunError(f"tracker {name}: its package is not installed: pip install {name}")
        return name
    if ":" not in name:
        raise RunError(
            f"tracker {name!r}: it is wandb, mlflow or FILE.py:function (events for TensorBoard are written anyway, to "
            "RUN/events)"
        )
    return load_function(name, f"tracker {name}")


def start_tracking(tracker: Tracker | str | None, folder: Path, stage: str, config: StageConfig) -> Tracking | None:
    """Start what ``find_tracker`` found; where there are several processes, in the first of them.

    Args:
        tracker: a function, the name of a service, or None.
        folder: the run folder.
        stage: the stage's name.
        config: its config, which a service is told.

    Raises:
        RunError: when the service cannot be started.
    """
    if tracker is None or not processes.first():
        return None
    if not isinstance(tracker, str):
        return Tracking(tracker, config.tracker or "given")
    try:
        return start_service(tracker, folder, stage, dict(_flat(dataclasses.asdict(config))))
    except Exception as error:  # whatever a service raises that cannot be reached
        raise RunError(
            f"tracker {tracker}: {type(error).__name__}: {error}; leave --tracker out to train without it"
        ) from error


def _flat(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """List the fields of nested objects by their paths."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
