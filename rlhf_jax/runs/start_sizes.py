"""How large the model is that a stage would start from, by its config alone: what is planned needs no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rlhf_jax import checkpoint
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.models.gguf.read import read_gguf
from rlhf_jax.models.huggingface.config import model_config
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.pretrained import base_checkpoint, must_write_text
from rlhf_jax.runs.stage_path import policy_path, split_stage


def start_sizes(init: str, *, scores: bool = False) -> ModelConfig | None:
    """Read the sizes of the model that a stage starts from.

    Args:
        init: as for ``runs.loading.start_from``.
        scores: a reward model is trained, which may start from another one.

    Returns:
        The config, adapters folded in and without a scalar head; None where there is no such folder, or no such stage
        in it yet.

    Raises:
        RunError: when a reward model is named where a policy is meant.
        CheckpointError: when the checkpoint's config cannot be read.

    Example:
        >>> start_sizes("runs/none") is None
        True
    """
    if not init or not split_stage(init)[0].exists():
        return None
    at = policy_path(init, or_reward=scores)
    if not at.stage:
        if not scores:
            must_write_text(at.path, "train a policy from")
        return dataclasses.replace(_of_checkpoint(base_checkpoint(at.path)), scalar_head=False)
    params = at.path / "params" / at.stage
    if not params.is_dir():
        return None
    found = ModelConfig.from_json(checkpoint.load_metadata(params)["model"])
    return dataclasses.replace(found, lora=LoRAConfig(), int8=False, scalar_head=False)


def _of_checkpoint(path: Path) -> ModelConfig:
    if path.is_file():
        return model_config(read_gguf(path)[0], str(path))
    return model_config(read_object(path / "config.json"), str(path / "config.json"))
