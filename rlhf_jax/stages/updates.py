"""How many updates a stage's rows are, said before training: packed rows make fewer than one expects."""

from __future__ import annotations

import sys

from rlhf_jax import processes
from rlhf_jax.data.batches import Batches
from rlhf_jax.stages.config import PackedConfig

FEW = 50  # updates below which a rate's warm-up and decay leave little to learn with


def say_updates(stage: str, examples: int, batches: Batches, config: PackedConfig) -> None:
    """Print how many updates the rows are, and what to change where they are few.

    Args:
        stage: names the line.
        examples: rows that an epoch trains on.
        batches: parts of batches, all epochs.
        config: the stage's.
    """
    updates = -(-len(batches) // config.micro_batches)
    if processes.first():
        print(f"{stage}: {in_words(examples, updates, config)}", file=sys.stderr)


def in_words(examples: int, updates: int, config: PackedConfig) -> str:
    """Say how many updates the rows are.

    Args:
        examples: rows that an epoch trains on.
        updates: batches of all epochs.
        config: how long and how wide a batch is, and how many epochs there are.

    Returns:
        A sentence.

    Example:
        >>> from rlhf_jax.stages import SFTConfig
        >>> in_words(150, 4, SFTConfig(rows=16, epochs=1))
        '150 rows are 4 updates (16 x 128 tokens each, epochs 1): few; --rows 1 or --epochs 13 make more of them'
    """
    said = f"{examples:,} rows are {updates:,} updates ({config.rows} x {config.row_length} tokens each, "
    said += f"epochs {config.epochs})"
    if updates >= FEW:
        return said
    smallest = config.micro_batches * max(1, config.rows * updates // FEW // config.micro_batches)
    ways = [f"--rows {smallest}"] if smallest < config.rows else []
    return f"{said}: few; {' or '.join([*ways, f'--epochs {-(-config.epochs * FEW // updates)}'])} make more of them"
