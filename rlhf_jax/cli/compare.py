"""``rlhf compare``: people compare what policies say, on a page that this machine serves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.data.errors import OnBadRow


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of comparing."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|FILE")]
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint): two samples of its policy for each of its held-out
    prompts. Or a file of pairs: `prompt, a, b`, `prompt, chosen, rejected`, `prompt, responses`, the samples.jsonl of a
    run, or any other layout that has responses, with an opinion or without."""
    to: Path
    """The file of what people say, an SQLite database; the same command goes on with it, and `rlhf data FILE --to
    OUT.jsonl` makes rows of it."""
    against: Annotated[str, tyro.conf.arg(name="with")] = ""
    """Another run: one sample of each is compared, blind; the rows say which run said what."""
    raters: str = "rater"
    """Names of the raters, with commas between: each gets a link."""
    golden: str = ""
    """A file of pairs whose answer is known (`golden` or `preference`: a, b, tie). Raters are calibrated on some and
    checked on the others."""
    reward: str = ""
    """A run folder with a reward model, or an ensemble, that says which pairs are disputed."""
    next: Annotated[Literal["", "disputed", "rare", "random"], tyro.conf.arg(metavar="{disputed,rare,random}")] = ""
    """Which pair comes next: the one that the reward model disputes most, the one with the rarest prompt, or any;
    disputed where there is `--reward`, else random."""
    rubric: str = ""
    """A text file with what raters are to look at, shown beside the pair."""
    prompts: str = ""
    """A file of prompts to sample for, in place of the run's held-out ones."""
    pairs: int = 200
    """So many pairs at most, spread over all that there are; 0 takes all."""
    of_k: Literal["all", "neighbours"] = "all"
    """Which pairs are made of a row of K responses: all, or each with the next one."""
    calibrate: int = 5
    """Golden items that a rater answers first and is told the answer of; no more than there are."""
    hidden: float = 0.1
    """Share of the later pairs that are golden items or repeats."""
    votes: int = 0
    """Raters a pair; 0 shows all pairs to all raters, as agreement needs pairs that several have seen."""
    round: int = 0
    """Which round of collecting this is; it stands in every row."""
    new_links: bool = False
    """Give raters whom the file knows new links; their old ones end."""
    host: str = "127.0.0.1"
    """Address that the page is served at; others can be reached from elsewhere, with a link."""
    port: int = 0
    """Port that the page is served at; 0 takes a free one the first time and the same one later."""
    seed: int = 0
    """What is sampled, and in which order and on which side things are shown, comes from it."""
    max_new_tokens: int = 48
    """Longest response that is sampled, in tokens."""
    temperature: float = 1.0
    """Divides the logits when responses are sampled."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""


def compare(argv: list[str]) -> None:
    """Serve the page until Ctrl-C; what was said by then is in the file."""
    o = parse(CompareOptions, "compare", argv)
    from rlhf_jax import stages
    from rlhf_jax.compare.packages import check_packages
    from rlhf_jax.rollout import SamplingConfig

    check_packages()

    fields = {name: value for name, value in vars(o).items() if name not in ("max_new_tokens", "temperature", "raters")}
    try:
        config = stages.CompareConfig(
            **fields,
            raters=tuple(name.strip() for name in o.raters.split(",") if name.strip()),
            sampling=SamplingConfig(max_new_tokens=o.max_new_tokens, temperature=o.temperature),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    store, settings = stages.open_store(config)
    from rlhf_jax.compare.serve import serve

    serve(store, settings)
