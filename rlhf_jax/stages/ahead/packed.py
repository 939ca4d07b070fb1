"""The step of SFT, reward models and preference optimisation, compiled from shapes."""

from __future__ import annotations

import jax

from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.stages.ahead.compiler import Compiler
from rlhf_jax.stages.ahead.figures import Work
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.profile.packed import PackedWork


def compile_packed(config: PackedConfig, work: PackedWork, compiler: Compiler) -> None:
    """Compile the update of a stage that trains on packed rows.

    Args:
        config: the stage's.
        work: from ``packed_work(..., shapes=True)``.
        compiler: for the devices that the work was made for.
    """
    length = config.data.max_length
    tokens = config.rows * (config.row_length // length) * length
    flops = work.copies * train_flops(work.trained, tokens, length) + work.also
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    arguments = work.program.arguments(work.batches[0], key)
    compiler("update", work.program.jitted, arguments, Work(flops, tokens=work.copies * tokens))


def train_flops(config: ModelConfig, tokens: float, length: float) -> float:
    """Count the FLOPs of an update whose targets are half of the tokens."""
    return costs.train_flops(config, tokens, length, logits=None if config.scalar_head else tokens / 2)
