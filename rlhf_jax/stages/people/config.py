"""What is compared, by whom and how: the config of ``stages.compare`` and of ``rlhf compare``."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rlhf_jax.compare.pairs import OfK
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_at_least, check_fields
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import check_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared, by whom and how."""

    source: str
    """A run folder (or `RUN:STAGE`, or a pretrained checkpoint), two samples of whose policy are compared for each of
    its held-out prompts; or a file of pairs: `prompt, a, b`, `prompt, chosen, rejected`, `prompt, responses`, or any
    other layout that has responses, with an opinion or without."""
    against: str = ""
    """Another run: one sample of each is compared, blind; the export says which run said what. `--with RUN2`."""
    to: str
    """The file of what people say, an SQLite database. The same command with the same file goes on."""
    raters: tuple[str, ...] = ("rater",)
    """Names of the raters, each of whom gets a link; those that the file knows keep theirs."""
    golden: str = ""
    """A file of pairs whose answer is known, `golden` or `preference`: raters are calibrated on the first ones, and
    the others come unannounced. Pairs of `source` with a field `golden` are golden items too."""
    reward: str = ""
    """A run folder with a reward model, or an ensemble of them, that says which pairs are disputed."""
    next: Literal["", "disputed", "rare", "random"] = ""
    """Which pair comes next: the one that the reward model disputes most (an ensemble by the standard deviation of the
    difference of its two scores, a single model by how near its probability is to 1/2), the one with the rarest prompt,
    or a random one. Empty: disputed with `reward`, else random."""
    rubric: str = ""
    """A text file with what raters are to look at, shown beside the pair."""
    prompts: str = ""
    """A file of prompts to sample for, in place of the run's held-out ones; a checkpoint has none of its own."""
    pairs: int = 200
    """So many pairs at most, spread over all that there are; 0 takes all."""
    of_k: OfK = "all"
    """Which pairs are made of a row of K responses: all, or each with the next one."""
    calibrate: int = 5
    """Golden items that a rater answers first and is told the answer of; no more than there are."""
    hidden: float = 0.1
    """Share of the later pairs that are golden items or repeats of pairs that the rater has answered before."""
    votes: int = 0
    """Raters a pair. 0: all raters see all pairs, as agreement needs pairs that several have seen."""
    round: int = 0
    """Which round of collecting this is; it stands in every exported row."""
    new_links: bool = False
    """Give raters whom the file knows new links; their old ones end."""
    host: str = "127.0.0.1"
    """Address that the page is served at; others than the loopback can be reached from elsewhere, by who has a link."""
    port: int = 0
    """Port that the page is served at. 0: a free one the first time, and the same one again later."""
    seed: int = 0
    """What is sampled, and in which order and on which side things are shown, comes from it."""
    on_bad_row: OnBadRow = "error"
    """A bad row of a file stops the command, or is skipped and listed."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=48)
    """How responses are drawn from a run."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self, "source", "a run folder or a file of pairs")
        check_named(self, "to", "a file, comparisons.sqlite say")
        check_at_least(self, 0, "pairs")
        if not self.raters:
            raise ValueError("raters must name at least one rater, found none")
        if repeated := next((name for name in self.raters if self.raters.count(name) > 1), ""):
            raise ValueError(f"raters must have different names, found {repeated!r} twice")
        if self.next == "disputed" and not self.reward:
            raise ValueError("next disputed needs a reward model that disputes pairs: name one with reward")
