"""The command that has an AI judge label pairs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.judges.endpoint.config import EndpointConfig


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Options of labelling."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint): samples of its policy for its training prompts. Or a
    file of pairs: `prompt, a, b`, `prompt, chosen, rejected`, `prompt, responses`, the samples.jsonl of a run, or any
    other layout that has responses, with an opinion or without."""
    judge: str
    """Who judges: a run, `RUN:STAGE` or a checkpoint with a language model; `reward:RUN`, a reward model;
    `http://HOST:PORT/v1#MODEL`, an OpenAI-compatible endpoint; `FILE.py:function` of (prompts, responses [K]), which
    returns votes; `scores:FILE.py:function` of (prompts, responses), a number for each; or `FILE.toml` with fields."""
    to: str
    """The .jsonl file that rows are added to; the same command goes on with it, and another judge may add to it too."""
    how: Literal["pairs", "scores", "ranking"] = "pairs"
    """What a language model is asked: which of two is better, in both orders; a score from 1 to 10 for each; or the
    order of all K."""
    criterion: str = ""
    """What a language model compares by: a sentence that is true of a good response, as "The response is kind."."""
    rubric: str = ""
    """A file of weighted criteria."""
    principles: str = ""
    """A file of principles, one of which is drawn for each prompt."""
    endpoint: EndpointConfig = EndpointConfig()
    """How an endpoint is asked."""
    rater: str = ""
    """What the rows call the judge; by default its name without the folders."""
    part: Literal["train", "validation", "test"] = "train"
    """Which of a run's prompts. Labels are there to be trained on; final figures are measured on `test`."""
    prompts: str = ""
    """A file of prompts to sample for, in place of the run's own."""
    limit: int = 1000
    """So many prompts, or rows of a file, at most, spread over all that there are; 0 takes all."""
    samples: int = 2
    """Responses to each prompt; every two of them make a row."""
    round: int = 0
    """Which round of collecting this is; it stands in every row."""
    seed: int = 0
    """What is sampled, and which principle is drawn, comes from it."""
    max_new_tokens: int = 48
    """Longest response that is sampled, in tokens."""
    temperature: float = 1.0
    """Divides the logits when responses are sampled."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""


def label(argv: list[str]) -> None:
    """Label pairs, and print what the votes look like; what was said by Ctrl-C is in the file."""
    o = parse(LabelOptions, "label", argv)
    from rlhf_jax import stages
    from rlhf_jax.judges import JudgeConfig
    from rlhf_jax.rollout import SamplingConfig
    from rlhf_jax.stages.labelling.summary import sentences

    asked = ("judge", "how", "criterion", "rubric", "principles", "endpoint", "seed")
    rest = ("source", "to", "rater", "part", "prompts", "limit", "samples", "round", "seed", "on_bad_row")
    try:
        config = stages.LabelConfig(
            **{name: vars(o)[name] for name in rest},
            judge=JudgeConfig(**{name: vars(o)[name] for name in asked}),
            sampling=SamplingConfig(max_new_tokens=o.max_new_tokens, temperature=o.temperature),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    found = stages.label(config)
    print(*sentences(found.summary), found.path, sep="\n")
