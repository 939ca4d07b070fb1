"""What is revised, by which principles, by whom and how often: the config of ``stages.revise`` and ``rlhf revise``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_at_least, check_fields, check_seed
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import check_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReviseConfig:
    """What is revised, by which principles, by whom and how often."""

    source: str
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint), whose policy answers its prompts; or a file of
    responses: `prompt, response`, or any other layout of demonstrations."""
    principles: str
    """The file of principles; which one a revision is by is drawn by `seed`, the prompt, the sample and the round."""
    to: str
    """The .jsonl file of rows `prompt, response` to imitate, the last revision of each response, with what it came of
    beside it. The same command goes on where it was stopped."""
    examples: str = ""
    """A .jsonl file of examples, `prompt, response, critique, revision`, and `principle` in those of one principle
    alone, which are shown as earlier turns. Small models revise little without them."""
    pairs: str = ""
    """A second .jsonl file, of pairs `prompt, chosen, rejected`: the last revision, and the response as it was first.
    Nobody has compared them; `rlhf label` does."""
    reviser: str = ""
    """Who criticises and revises: a run folder, `RUN:STAGE` or a checkpoint; by default the policy that answered."""
    rounds: int = 2
    """How often a response is criticised and revised."""
    critique: bool = True
    """Ask for a critique before each revision; without, a revision is asked for at once."""
    keep: Literal["all", "revised"] = "all"
    """Whether `to` has the responses too of which no revision was taken, as they were said first."""
    part: Literal["train", "validation", "test"] = "train"
    """Which of a run's prompts are answered. Revisions are there to be imitated, so it is those that the run trained
    on: final figures are measured on those of `test`."""
    prompts: str = ""
    """A file of prompts to answer, in place of the run's; a checkpoint has none of its own."""
    limit: int = 1000
    """So many prompts, or rows of a file, at most, spread over all that there are; 0 takes all."""
    samples: int = 1
    """Responses to each prompt, where a policy answers."""
    seed: int = 0
    """What is sampled, and which principle is drawn, comes from it."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    """How responses are drawn."""
    revising: SamplingConfig = SamplingConfig(max_new_tokens=64, temperature=0.7)
    """How critiques and revisions are drawn. One that does not end within these tokens is not taken."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self, "source", "a run folder or a file of responses")
        check_named(self, "principles", "a text file, principles.txt say")
        for name in ("to", "pairs"):
            if not vars(self)[name].endswith(".jsonl") and (name == "to" or vars(self)[name]):
                raise ValueError(f"{name} must name a .jsonl file, found {vars(self)[name]!r}")
        if self.to == self.pairs:
            raise ValueError(f"to and pairs both name {self.to}: revisions and pairs are files of their own")
        check_at_least(self, 0, "limit")
        check_at_least(self, 1, "rounds", "samples")
        check_seed("seed", self.seed)
