"""The step of SFT, reward models and preference optimisation, compiled from shapes."""

from __future__ import annotations

import dataclasses

import jax
from jax.sharding import Mesh

from rlhf_jax.models import ModelConfig, costs
from rlhf_jax.stages.ahead.compiler import Compiler
from rlhf_jax.stages.ahead.figures import Work
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.profile.packed import PackedWork, packed_work
from rlhf_jax.stages.sft import SFTConfig, sized


def packed_shapes(config: PackedConfig, sizes: ModelConfig | None, mesh: Mesh) -> PackedWork:
    """Build a stage that trains on packed rows from shapes; SFT takes ``config.model`` where no sizes are given."""
    if isinstance(config, SFTConfig) and sizes is not None:
        config = dataclasses.replace(config, model=sized(config.model, sizes), vocab_size=sizes.vocab_size)
    return packed_work(config, sizes or ModelConfig(), mesh, shapes=True)


def compile_packed(config: PackedConfig, work: PackedWork, compiler: Compiler) -> None:
    """Compile the update of a stage that trains on packed rows.

    Args:
        config: the stage's.
        work: from ``packed_shapes``.
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
