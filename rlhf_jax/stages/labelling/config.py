"""What a judge labels, and where its votes go: the config of ``stages.label`` and of ``rlhf label``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_at_least, check_fields, check_seed
from rlhf_jax.judges import JudgeConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import check_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What a judge labels, and where its votes go."""

    source: str
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint), `samples` responses of whose policy to each of its
    prompts are compared; or a file of pairs: `prompt, a, b`, `prompt, chosen, rejected`, `prompt, responses`, or any
    other layout that has responses, with an opinion or without."""
    to: str
    """The .jsonl file that rows are added to. The same command with the same file goes on; another judge's votes may
    stand in it too, under another rater's name."""
    judge: JudgeConfig | None = None
    """Who judges, and how; None where a function is passed."""
    rater: str = ""
    """What the rows call the judge; by default the last part of what names it, `smollm2-135m` say."""
    part: Literal["train", "validation", "test"] = "train"
    """Which of a run's prompts. Labels are there to be trained on, so it is those that the run trained on: final
    figures are measured on the prompts of `test`."""
    prompts: str = ""
    """A file of prompts to sample for, in place of the run's; a checkpoint has none of its own."""
    limit: int = 1000
    """So many prompts of a run, or rows of a file, at most, spread over all that there are; 0 takes all."""
    samples: int = 2
    """Responses that a run's policy gives to each prompt, K; every two of them make a row."""
    round: int = 0
    """Which round of collecting this is; it stands in every row."""
    seed: int = 0
    """What is sampled comes from it."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    """How responses are drawn from a run."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self, "source", "a run folder or a file of pairs")
        check_named(self, "to", "a file, rows.jsonl say")
        if not self.to.endswith(".jsonl"):
            raise ValueError(f"to must name a .jsonl file, as rows are added to it line by line, found {self.to}")
        check_at_least(self, 0, "limit", "round")
        check_at_least(self, 2, "samples")
        check_seed("seed", self.seed)
