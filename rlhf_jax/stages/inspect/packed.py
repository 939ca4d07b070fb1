"""The arrays of SFT, reward models and preference optimisation: models, and one batch of packed rows."""

from __future__ import annotations

from typing import Any

from rlhf_jax.models import ModelConfig
from rlhf_jax.stages.ahead.packed import packed_shapes
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.inspect.lister import Lister, by_rows
from rlhf_jax.stages.preference import PreferenceConfig


def list_packed(config: PackedConfig, sizes: ModelConfig | None, lister: Lister) -> None:
    """List the arrays of a stage that trains on packed rows.

    Args:
        config: the stage's.
        sizes: those of the model.
        lister: for its devices.
    """
    work = packed_shapes(config, sizes, lister.mesh)
    program, members = work.program, int(work.copies > 1)
    lister.models(program.state, program.trunks, members)
    for params in (program.reference or {}).values():
        lister.frozen("reference", params)
    axis = (config.micro_batches > 1) + members
    _, (batch, *_), _ = program.arguments(work.batches[0], None)
    pairs = isinstance(config, PreferenceConfig)
    parts: dict[str, Any] = dict(zip(("pairs", "mismatched"), batch, strict=True)) if pairs else {"update": batch}
    for name, part in parts.items():
        lister.add("batch", {name: part._replace(packing=None)}, by_rows(axis))
        lister.add("packed rows", {name: part.packing}, by_rows(axis))
        rows, length = part.packing.tokens.shape[-2:]
        if not work.trained.scalar_head:
            lister.logits(name, rows, length, work.trained.vocab_size, backward=name != "mismatched")
