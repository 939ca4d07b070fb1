"""``rlhf revise``: responses are criticised and revised by principles, and become rows to imitate."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.data.errors import OnBadRow


@dataclasses.dataclass(frozen=True)
class ReviseOptions:
    """Options of revising."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint), whose policy answers its prompts; or a file of
    responses: `prompt, response`."""
    principles: str
    """The file of principles, paragraphs `NAME: what a response that keeps it is like`."""
    to: str
    """The .jsonl file of rows `prompt, response` to imitate; the same command goes on where it was stopped."""
    examples: str = ""
    """A .jsonl file of examples, `prompt, response, critique, revision`, shown as earlier turns of the chat."""
    pairs: str = ""
    """A second .jsonl file, of pairs: the last revision, and the response as it was first."""
    reviser: str = ""
    """Who criticises and revises: a run folder, `RUN:STAGE` or a checkpoint; by default the policy that answered."""
    rounds: int = 2
    """How often a response is criticised and revised."""
    critique: bool = True
    """Ask for a critique before each revision."""
    keep: Literal["all", "revised"] = "all"
    """Whether the rows have the responses too of which no revision was taken."""
    part: Literal["train", "validation", "test"] = "train"
    """Which of a run's prompts are answered."""
    prompts: str = ""
    """A file of prompts to answer, in place of the run's."""
    limit: int = 1000
    """So many prompts, or rows of a file, at most, spread over all that there are; 0 takes all."""
    n: int = 1
    """Responses to each prompt."""
    seed: int = 0
    """What is sampled, and which principle is drawn, comes from it."""
    max_new_tokens: int = 48
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits when responses are sampled."""
    revise_tokens: int = 64
    """Longest critique and longest revision, in tokens; one that does not end by then is not taken."""
    revise_temperature: float = 0.7
    """Divides the logits when critiques and revisions are sampled."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""


_OTHERWISE = ("n", "max_new_tokens", "temperature", "revise_tokens", "revise_temperature")


def revise(argv: list[str]) -> None:
    """Revise, write the rows, and say what became of the responses."""
    o = parse(ReviseOptions, "revise", argv)
    from rlhf_jax import stages
    from rlhf_jax.rollout import SamplingConfig
    from rlhf_jax.stages.constitution.summary import sentences

    try:
        config = stages.ReviseConfig(
            **{name: value for name, value in vars(o).items() if name not in _OTHERWISE},
            samples=o.n,
            sampling=SamplingConfig(max_new_tokens=o.max_new_tokens, temperature=o.temperature),
            revising=SamplingConfig(max_new_tokens=o.revise_tokens, temperature=o.revise_temperature),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    found = stages.revise(config)
    for line in sentences(found.summary):
        print(line)
    print(found.path)
