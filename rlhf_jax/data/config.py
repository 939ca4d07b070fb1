"""Where rows come from, and which of them are held out."""

from __future__ import annotations

import dataclasses

from rlhf_jax.data.errors import OnBadRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where a stage's rows come from, and which rows are held out."""

    source: str = "human_sentiment"
    """`human_sentiment`; a .jsonl, .json or .parquet file; a folder of them, or one that `datasets` saved;
    `hf:org/name` or `hf:org/name:config` on the Hugging Face hub; else the name of any TFDS data set. The usual layouts
    are recognised by their fields: docs/data.md lists them."""
    split: str = ""
    """The split to train on, where the source has several. Empty: `train`, else `train_sft` or `train_prefs`, whichever
    the stage is for."""
    heldout: str = ""
    """The split to hold out, or a second file or folder. Empty: `validation` or else `test`; where there is neither, as
    in a single file, a tenth of the prompts, chosen by hash. human_sentiment has its own validation and test splits."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the run, or is skipped, counted and listed."""
    max_length: int = 128
    """Longest prompt and response together, in tokens. Longer sentences of human_sentiment (19 of 23,703) are left
    out; a longer row of anybody else's data is a bad row."""
    limit: int = 0
    """Use the first so many training rows only; 0 uses all."""
    heldout_limit: int = 0
    """Hold out so many rows at most, spread over all that could be; 0 holds out all. Some data sets (TL;DR comparisons)
    have as many held-out rows as training rows."""

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise ValueError(f"data.max_length must be at least 4 tokens, found {self.max_length}")
        if self.limit < 0:
            raise ValueError(f"data.limit must be 0 (all rows) or positive, found {self.limit}")
        if self.heldout_limit < 0:
            raise ValueError(f"data.heldout_limit must be 0 (all rows) or positive, found {self.heldout_limit}")
        if self.heldout_limit and self.source == "human_sentiment":
            raise ValueError("data.heldout_limit: human_sentiment is always held out whole; leave it 0")
        if self.split and (self.source == "human_sentiment" or self.source.endswith(".jsonl")):
            raise ValueError(f"data.split {self.split}: {self.source} has no splits to choose from; leave it empty")
