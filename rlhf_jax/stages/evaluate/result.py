"""What an evaluation found, frozen, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.evaluation.choices import ChoiceQuality
from rlhf_jax.evaluation.win_rates import Difference, WinRate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """Agreement with items whose answer is known."""

    source: str
    """The file they are from."""
    quality: ChoiceQuality
    """The figures on them; the accuracy is the agreement."""
    missed: tuple[str, ...]
    """Where the items stand that the model gets wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The scores of a benchmark whose layout the rows have."""

    name: str
    """``RewardBench`` or ``RewardBench 2``."""
    scores: Mapping[str, float]
    """By section, or by subset."""
    score: float | None
    """Their mean; None where the rows are not of all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
    """The members of an ensemble, each for itself."""

    accuracies: tuple[float | None, ...]
    """Each member's own."""
    disagreement: float
    """Mean standard deviation of their scores of a response."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What scores of responses are worth on rows in which people picked."""

    what: str
    """What was evaluated."""
    data: str
    """Where the rows are from."""
    quality: ChoiceQuality
    """The figures over all rows."""
    by: Mapping[str, ChoiceQuality]
    """The figures of every subset; empty where nobody asked for any."""
    worst: str
    """The subset with the lowest accuracy; empty where there are not two."""
    golden: Golden | None
    """Agreement with golden items, where somebody brought some."""
    benchmark: Benchmark | None
    """A benchmark's own scores, where the rows are a benchmark's."""
    members: Members | None
    """The members of an ensemble, where there are several."""
    left_out: int
    """Bad rows that were skipped."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values: the figures over all rows, ``by`` subset, and what else there is."""
        golden = self.golden and {"source": self.golden.source, "missed": list(self.golden.missed)}
        return {
            "what": self.what,
            "data": self.data,
            **self.quality.to_json(),
            "by": {name: quality.to_json() for name, quality in self.by.items()},
            "worst": self.worst,
            "golden": golden and self.golden and {**self.golden.quality.to_json(), **golden},
            "benchmark": self.benchmark and dataclasses.asdict(self.benchmark),
            "members": self.members and dataclasses.asdict(self.members),
            "left_out": self.left_out,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """Two scorers on the same rows."""

    first: Evaluation
    """The one."""
    second: Evaluation
    """The other."""
    difference: Difference
    """The first accuracy less the second, over the rows that both could be measured on."""
    by: Mapping[str, Difference]
    """The same for every subset."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values: the first one's figures, ``against``, the other one's, and the difference."""
        return {
            **self.first.to_json(),
            "against": self.second.to_json(),
            **self.difference.to_json(),
            "n": self.first.quality.n,
            "n_both": self.difference.n,
            "difference_by": {name: each.to_json() for name, each in self.by.items()},
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class WinRates:
    """Two policies' responses to the same prompts, as a judge sees them."""

    first: str
    """The one policy."""
    second: str
    """The other."""
    judge: str
    """What scored the responses."""
    data: str
    """Where the prompts are from."""
    rate: WinRate
    """How often the first one wins."""
    by: Mapping[str, WinRate]
    """The same for every subset of the prompts."""
    lengths: tuple[float, float]
    """Mean length of their responses, characters."""
    scores: tuple[float, float]
    """Mean score of their responses."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {
            "what": self.first,
            "against": self.second,
            "judge": self.judge,
            "data": self.data,
            **self.rate.to_json(),
            "by": {name: rate.to_json() for name, rate in self.by.items()},
            "lengths": list(self.lengths),
            "scores": list(self.scores),
        }
