"""Pretrained checkpoints as stages see them: a Hugging Face folder, a .gguf file, or an adapter of PEFT's.

An adapter is folded into the checkpoint that it names.
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.tokenizer import gguf
from rlhf_jax.models import ModelConfig
from rlhf_jax.models.huggingface.config import model_config
from rlhf_jax.models.peft.layout import ADAPTER_CONFIG
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.errors import RunError
from rlhf_jax.types import Params


def is_checkpoint(path: Path | str) -> bool:
    """Whether this is a pretrained checkpoint and no run folder; it may still turn out to be unreadable."""
    path = Path(path)
    weights = (path / "config.json").exists() and any([*path.glob("*.safetensors*"), *path.glob("*.bin")])
    return path.is_file() or weights or (path / ADAPTER_CONFIG).exists()


def scores_text(path: Path) -> bool:
    """Whether a checkpoint is a reward model, a sequence classifier with one label, by its config alone.

    Raises:
        CheckpointError: when the config cannot be read.
    """
    if (path / ADAPTER_CONFIG).exists():
        return scores_text(_below(path))
    if path.is_file():
        return False
    file = path / "config.json"
    return model_config(read_object(file), str(file)).scalar_head


def must_write_text(path: Path, what: str) -> None:
    """Raise a RunError where a language model is needed and a checkpoint is a reward model.

    Args:
        path: the checkpoint.
        what: what needs a language model.
    """
    if scores_text(path):
        raise RunError(
            f"{path} is a sequence classifier: it scores text and writes none, so it is no model to {what}. Name a "
            "language model; this one can be a --reward-model, or the --init of a reward model"
        )


def load_checkpoint(path: Path | str) -> tuple[ModelConfig, Params, Tokenizer]:
    """Load a pretrained language model with its tokenizer.

    Raises:
        RunError: when it is a reward model.
        CheckpointError: when it cannot be used.
    """
    path = Path(path)
    must_write_text(path, "sample from")
    config, params = read_checkpoint(path)
    tokenizer = checkpoint_tokenizer(path)
    warn_of_unknown_tokens(path, config, tokenizer)
    return with_tokens(config, tokenizer), params, tokenizer


def with_tokens(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Tell a model which of its ids the tokenizer has no token for: it never says one, in sampling or in training."""
    return dataclasses.replace(config, tokenless=tokenizer.missing(config.vocab_size))


def warn_of_unknown_tokens(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Warn of tokens for which the model has no embedding: text with one of them has no log-probability.

    A pad token that was added and never given an embedding does no harm: padding is masked.
    """
    padding = tokenizer.pad_id == tokenizer.vocab_size - 1 >= config.vocab_size
    beyond = tokenizer.vocab_size - config.vocab_size - (1 if padding else 0)
    if beyond > 0:
        warnings.warn(
            f"{path}: the tokenizer has {beyond} tokens, from id {config.vocab_size} on, for which the model has no "
            "embedding; text that holds one gives NaN. Use the model's own tokenizer, or give it their embeddings",
            stacklevel=2,
        )


def read_checkpoint(path: Path, shardings: Any = None) -> tuple[ModelConfig, Params]:
    """Load a pretrained checkpoint; ``shardings`` are as for ``models.load_pretrained``.

    Raises:
        CheckpointError: when it cannot be used.
    """
    if not (path / ADAPTER_CONFIG).exists():
        return models.load_pretrained(path, shardings=shardings)
    return models.merge(*models.load_peft(path, *models.load_pretrained(_below(path), shardings=shardings)))


def checkpoint_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer beside the weights, or the one inside a .gguf file.

    An adapter may bring a tokenizer, but no generation config: what ends a response is what ends one of its base.
    """
    if (path / ADAPTER_CONFIG).exists():
        below = checkpoint_tokenizer(_below(path))
        if not (path / "tokenizer.json").exists():
            return below
        return Tokenizer.load(path).with_ends(below.end_ids, below.stops)
    if path.suffix != ".gguf":
        return Tokenizer.load(path)
    with tempfile.TemporaryDirectory() as folder:
        gguf.write_tokenizer(path, folder)
        return Tokenizer.load(folder)


def checkpoint_fingerprint(path: Path) -> str:
    """Hash a checkpoint's files, so that the result changes when they do."""
    if (path / ADAPTER_CONFIG).exists():
        return models.fingerprint(path / "adapter_model.safetensors") + models.fingerprint(_below(path))
    return models.fingerprint(path)


def base_checkpoint(path: Path) -> Path:
    """Find the checkpoint that an adapter of PEFT's is for; any other is its own.

    Raises:
        CheckpointError: when the adapter names none that is here.
    """
    return base_checkpoint(_below(path)) if (path / ADAPTER_CONFIG).exists() else path


def _below(adapter: Path) -> Path:
    """Find the checkpoint that an adapter of PEFT's is for."""
    named = read_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or ""
    if not named or not is_checkpoint(named):
        what = f"base_model_name_or_path {named!r} is no checkpoint here"
        raise models.CheckpointError(f"{adapter / ADAPTER_CONFIG}: {what}: write the path of its folder")
    return Path(named)
