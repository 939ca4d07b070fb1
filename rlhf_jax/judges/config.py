"""Who judges and how: the config of an AI judge, on a command line or in a file of its own."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.fields import check_fields
from rlhf_jax.judges.endpoint.config import EndpointConfig

How = Literal["pairs", "scores", "ranking"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Who judges, and how."""

    judge: str
    """Who judges: a run folder, `RUN:STAGE` or a checkpoint with a language model; `reward:RUN`, a reward model;
    `http://HOST:PORT/v1#MODEL`, an OpenAI-compatible endpoint; `FILE.py:function` of (prompts, responses [K]), which
    returns votes; `scores:FILE.py:function` of (prompts, responses), which returns a number for each; or `FILE.toml`
    with the fields here."""
    how: How = "pairs"
    """What a language model is asked: which of two responses is better (`pairs`, in both orders), a score from 1 to 10
    for each alone (`scores`), or the order of all K (`ranking`)."""
    criterion: str = ""
    """What a language model compares responses by: a sentence that is true of a good one, as "The response is kind.";
    by default that it answers the prompt better."""
    rubric: str = ""
    """A file of weighted criteria; the votes are the weighted mean of those by each."""
    principles: str = ""
    """A file of principles, one of which, drawn by `seed` and the prompt, says by what a pair is compared."""
    seed: int = 0
    """Which principle is drawn comes from it."""
    endpoint: EndpointConfig = EndpointConfig()
    """How an endpoint is asked; in a file of fields its own are a table, `[endpoint]`."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.judge.strip():
            raise ValueError("judge must say who judges, found an empty text")
        said = [name for name in ("criterion", "rubric", "principles") if getattr(self, name)]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} all say by what responses are compared: leave all but one out")
