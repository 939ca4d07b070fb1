"""Pretraining text that is trained on beside the policy's own samples (the ptx term of InstructGPT)."""

from __future__ import annotations

import math
from typing import Any

from rlhf_jax import data
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.batches import Batches, PackedEpochs, micro_batched
from rlhf_jax.stages import sources
from rlhf_jax.stages.online.config import OnlineConfig


def pretraining_batches(config: OnlineConfig, tokenizer: Tokenizer) -> Batches:
    """Pack the pretraining text into batches, one for every update of the run."""
    parts = config.micro_batches
    examples = sources.encode_demonstrations(sources.pretraining_text(config.ptx.data), tokenizer, config.ptx.data)
    shape = {"rows": config.ptx.rows // parts, "row_length": config.ptx.data.max_length, "pad_id": tokenizer.pad_id}

    def epoch(number: int) -> list[Any]:
        return [examples[i] for i in data.epoch_order(len(examples), config.seed, number)]

    epochs, batches = 1, PackedEpochs(epoch, epochs=1, **shape)
    while len(batches) < config.updates * parts:
        # Epochs are cut differently, so how many it takes is only known when they are cut.
        epochs = max(epochs + 1, math.ceil(epochs * config.updates * parts / len(batches)))
        batches = PackedEpochs(epoch, epochs=epochs, **shape)
    return micro_batched(batches, parts)
