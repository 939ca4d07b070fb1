"""Where rows come from, and which of them are held out."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_fields

Raters = Literal["all", "weight", "filter"]
HUMAN_SENTIMENT = "human_sentiment"  # the quickstart's data set, which cuts its parts itself


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where a stage's rows come from, and which rows are held out."""

    source: str = HUMAN_SENTIMENT
    """`human_sentiment`; a .jsonl, .ndjson, .json (also .gz) or .parquet file; a folder of them, or one that `datasets`
    saved; `hf:org/name` or `hf:org/name:config` on the Hugging Face hub; FILE.py:NAME, a `stages.Task` of your own;
    else the name of any TFDS data set. The usual layouts are recognised by their fields: docs/data.md lists them."""
    split: str = ""
    """The split to train on, where the source has several. Empty: `train`, else `train_sft` or `train_prefs`, whichever
    the stage is for."""
    heldout: str = ""
    """What is held out to choose the best checkpoint: a split, or a second file or folder. Empty: `validation`. Where
    `test` names nothing and there is no split `test` either, half of it is kept for the final figures, chosen by the
    hash of the prompt. Where nothing is held out, as in a single file, a tenth of the prompts is taken for each.
    human_sentiment has its own validation and test splits."""
    test: str = ""
    """What the final figures are measured on: a split, or another file or folder. Empty: `test`, else half of what is
    held out. No prompt is in two parts: rows are moved where it would be, with a warning that counts them."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the run, or is skipped, counted and listed."""
    templated: bool = False
    """Texts hold the chat template already applied: special tokens that they spell are special, nothing is put around
    them, and in rows of `text` the assistant's turns are learned."""
    max_length: int = 128
    """Longest prompt and response together, in tokens. Longer sentences of human_sentiment (19 of 23,703) are left
    out; a longer row of anybody else's data is a bad row."""
    limit: int = 0
    """Use the first so many training rows only; 0 uses all."""
    heldout_limit: int = 0
    """So many rows at most to choose the checkpoint on, and as many for the final figures, spread over all that are
    held out; 0 uses all. Some data sets (TL;DR comparisons) have as many held-out rows as training rows."""

    raters: Raters = "all"
    """How rows with a `rater` count. `all`: every row is one vote. `weight`: a vote counts as far as its rater is right
    beyond chance, by Dawid & Skene 1979, times the row's `confidence`. `filter`: raters who disagree with the rows that
    have a `golden` answer, or where there are none with the majority of the others, are left out by name."""
    rater_agreement: float = 0.0
    """`filter`: the least agreement of a rater who stays. 0: 0.7 with golden answers, 0.6 with the majority."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.rater_agreement <= 1:
            raise ValueError(f"data.rater_agreement must lie between 0 and 1, found {self.rater_agreement}")
        if self.rater_agreement and self.raters != "filter":
            raise ValueError(f"data.rater_agreement {self.rater_agreement}: only --data.raters filter reads it")
        if self.max_length < 4:
            raise ValueError(f"data.max_length must be at least 4 tokens, found {self.max_length}")
        if self.limit < 0:
            raise ValueError(f"data.limit must be 0 (all rows) or positive, found {self.limit}")
        if self.heldout_limit < 0:
            raise ValueError(f"data.heldout_limit must be 0 (all rows) or positive, found {self.heldout_limit}")
        ours = self.source == HUMAN_SENTIMENT
        if ours and self.templated:
            raise ValueError("data.templated: human_sentiment has no chat template in it; leave it out")
        if ours and self.heldout_limit:
            raise ValueError("data.heldout_limit: human_sentiment is always held out whole; leave it 0")
        for name, value in (("heldout", self.heldout), ("test", self.test)):
            if ours and value:
                raise ValueError(f"data.{name} {value}: human_sentiment has validation and test splits; leave it empty")
        if self.test and self.test == self.heldout:
            raise ValueError(f"data.test {self.test} is data.heldout too: leave it empty, and half of it is kept")
        if self.split and (ours or self.source.lower().endswith((".jsonl", ".ndjson"))):
            raise ValueError(f"data.split {self.split}: {self.source} has no splits to choose from; leave it empty")
