"""What an evaluation found, frozen, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.evaluation.choices import ChoiceQuality
from rlhf_jax.evaluation.intervals import Interval


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
class Difference:
    """How much more often one is right than the other on the same rows."""

    n: int
    """Rows that both were measured on."""
    difference: float
    """The first accuracy less the second."""
    interval: Interval
    """95%, a bootstrap over prompts of the rows' differences."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values."""
        return {"n": self.n, "difference": self.difference, "difference_ci": list(self.interval)}
