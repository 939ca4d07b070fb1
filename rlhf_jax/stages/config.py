"""The configs that stages share. Frozen, keyword-only; the command line overrides any field by its path."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.parallel import MeshConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where a stage's rows come from, and which rows are held out."""

    source: str = "human_sentiment"
    """`human_sentiment`, the path of a .jsonl file, or the name of any TFDS data set."""
    heldout: str = ""
    """A second .jsonl file, or the TFDS split to hold out. Empty: `validation`, or a tenth of the prompts of a
    .jsonl file, chosen by hash. human_sentiment has its own validation and test splits."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A bad row stops the run, or is skipped, counted and listed."""
    max_length: int = 128
    """Longest prompt and response together, in tokens. Longer sentences of human_sentiment (19 of 23,703) are left
    out; a longer row of anybody else's data is a bad row."""
    limit: int = 0
    """Use the first so many training rows only; 0 uses all."""

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise ValueError(f"data.max_length must be at least 4 tokens, found {self.max_length}")
        if self.limit < 0:
            raise ValueError(f"data.limit must be 0 (all rows) or positive, found {self.limit}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every stage has."""

    out: str
    """The run folder. The same command with the same folder continues where it stopped."""
    seed: int = 0
    """Everything random comes from it."""
    mesh: MeshConfig = MeshConfig()
    """Devices; all of them share the batch by default."""
    checkpoint_every: int = 50
    """Steps between two checkpoints to continue from."""
    keep_checkpoints: int = 2
    """How many of them stay on disk."""
    max_skipped: int = 20
    """Updates in a row that may be skipped because they are not finite, before the run gives up."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_checkpoints", "max_skipped"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
