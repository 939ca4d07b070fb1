"""Reward models to score with: what a reward stage has left, or a checkpoint that is a sequence classifier."""

from __future__ import annotations

import functools
from pathlib import Path

from jax.sharding import Mesh

from rlhf_jax import parallel
from rlhf_jax.data import Tokenizer
from rlhf_jax.models import ModelConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import load_stage
from rlhf_jax.runs.pretrained import checkpoint_tokenizer, is_checkpoint, read_checkpoint, scores_text
from rlhf_jax.runs.resultless import warn_of_failure
from rlhf_jax.runs.store import local
from rlhf_jax.types import Params


def load_reward_model(path: Path | str, mesh: Mesh | None = None) -> tuple[ModelConfig, Params, Tokenizer]:
    """Load a reward model, or the stacked members of an ensemble, with its tokenizer.

    Args:
        path: a run folder with a finished reward stage; or a checkpoint of transformers'
            ``AutoModelForSequenceClassification`` with one label, which ``rlhf export`` writes too.
        mesh: where the weights go.

    Raises:
        RunError: when there is neither, or the checkpoint is a language model, which has no score.
        CheckpointError: when the checkpoint cannot be read.
    """
    path = local(path)
    if not is_checkpoint(path):
        params, config, tokenizer = load_stage(path, "reward", mesh)
        warn_of_failure(path, "reward")
        return config, params["reward"], tokenizer
    if not scores_text(path):
        raise RunError(
            f"{path} is a language model, which has no score: name a run folder with a reward model, or a sequence "
            "classifier with one label; rlhf reward --init trains one from it"
        )
    shardings = None if mesh is None else functools.partial(parallel.param_shardings, mesh=mesh)
    config, params = read_checkpoint(path, shardings)
    return config, params, checkpoint_tokenizer(path)
