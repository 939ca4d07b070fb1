"""How people compare: in which order pairs come, what is hidden among them, who sees what, where the page is served."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

from rlhf_jax.fields import check_at_least, check_fields, check_seed

Next = Literal["disputed", "rare", "random"]
# What holds for one start of the program; a token is never written to a file.
_OF_THIS_START = ("tokens", "host", "port")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one collection of comparisons."""

    next: Next = "random"
    """Which pair comes next: the one that the reward model disputes most, the one with the rarest prompt, or any."""
    calibrate: int = 5
    """Golden items that a rater answers first, and is told the answer of; no more than there are."""
    hidden: float = 0.1
    """Share of the later pairs that are golden items or repeats of pairs that the rater has answered before."""
    votes: int = 0
    """Raters a pair; 0 shows every pair to every rater."""
    seed: int = 0
    """The same seed gives a rater the same order and the same sides."""
    rubric: str = ""
    """What raters are told to look at, shown beside the pair."""
    round: int = 0
    """Which round of collecting this is; written into every exported row."""
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    """Tokens of the raters who were added or given a new link at this start, by name: their links are printed."""
    host: str = "127.0.0.1"
    """Address that the page is served at."""
    port: int = 0
    """Port that the page is served at; 0 takes a free one."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "calibrate", "hidden", "votes", "round", "port")
        check_seed("seed", self.seed)
        if self.hidden > 0.5:
            raise ValueError(f"hidden must be at most 0.5, found {self.hidden}: most pairs should be new ones")
        if self.port > 65535:
            raise ValueError(f"port must be at most 65535, found {self.port}")

    def to_json(self) -> str:
        """Write what the store keeps: everything but tokens, host and port."""
        kept = {name: value for name, value in vars(self).items() if name not in _OF_THIS_START}
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)
