"""``RUN:STAGE``, the one way to say whose policy of a run folder is meant."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.pretrained import is_checkpoint
from rlhf_jax.runs.store import local
from rlhf_jax.stage_names import POLICY_STAGES


class StagePath(NamedTuple):
    """A stage of a run folder, or a pretrained checkpoint."""

    path: Path
    stage: str  # empty: a checkpoint


def split_stage(text: Path | str) -> tuple[Path, str | None]:
    """Split ``RUN:STAGE`` into a path and a stage, without checking that they exist.

    Args:
        text: a path that exists is taken as it stands, whatever colons are in its name.

    Returns:
        The folder, and what stands behind its last colon; None where no stage is named. What holds a slash or a
        backslash is no stage: ``C:\\runs\\mine`` is a path.

    Example:
        >>> split_stage("runs/mine:ppo")[1], split_stage("runs/mine")[1], split_stage(r"C:\\runs\\mine")[1]
        ('ppo', None, None)
    """
    path = Path(text)
    folder, colon, stage = str(text).rpartition(":")
    if not colon or not folder or "/" in stage or "\\" in stage or path.exists():
        return path, None
    return Path(folder), stage


def policy_path(text: Path | str, default: str = "sft", *, or_reward: bool = False) -> StagePath:
    """Find which policy ``RUN``, ``RUN:STAGE`` or a checkpoint's path names.

    Whether that stage is finished is not checked.

    Args:
        text: as somebody wrote it.
        default: the stage that is meant where the text names a run folder alone.
        or_reward: ``RUN:reward`` may be named too.

    Raises:
        RunError: when the stage has no policy, or a stage of a checkpoint is named.

    Example:
        >>> policy_path("runs/mine").stage, policy_path("runs/mine:preference").stage
        ('sft', 'preference')
    """
    named, stage = split_stage(text)
    path = local(named)
    if stage is None:
        return StagePath(path, "" if is_checkpoint(path) else default)
    if is_checkpoint(path):
        raise RunError(f"{text}: {path} is a pretrained checkpoint, which has no stages: leave :{stage} out")
    if not stage:
        raise RunError(f"{text} names no stage behind its colon: choose one of {', '.join(POLICY_STAGES)}")
    if stage not in POLICY_STAGES and not (or_reward and stage == "reward"):
        what = f"stage {stage!r} has no policy" if path.exists() else f"no such folder, and no policy stage {stage!r}"
        raise RunError(f"{text}: {what}: choose one of {', '.join(POLICY_STAGES)}, as in {path}:{POLICY_STAGES[0]}")
    return StagePath(path, stage)


def check_start(text: str, directory: Path, stage: str) -> None:
    """Raise a RunError when a stage is to start from itself."""
    at = policy_path(text)
    if at.stage == stage and at.path.resolve() == directory.resolve():
        raise RunError(
            f"the {stage} stage of {directory} cannot start from itself ({text}): name another stage, "
            f"{directory}:STAGE, or another folder with --out"
        )
