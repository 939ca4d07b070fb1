"""What an audit of a judge comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.evaluation import JudgeQuality


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """The judge as one rater among the people who are named; figures are None where nothing gives them."""

    raters: tuple[str, ...]
    """Their names; the judge comes last."""
    n: tuple[int, ...]
    """Pairs that each labelled."""
    others: tuple[float | None, ...]
    """Agreement of each with the majority of the others."""
    right: tuple[float | None, ...]
    """How often each is right, as Dawid and Skene estimate it where nobody knows the truth."""
    weight: tuple[float | None, ...]
    """How far each is right beyond chance (``feedback.rater_weights``)."""
    alpha: float | None
    """Krippendorff's alpha of all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """What a judge is worth on rows in which people said what they prefer."""

    what: str
    """Who was audited."""
    data: str
    """Where the rows are from."""
    quality: JudgeQuality
    """The figures over all rows."""
    by: Mapping[str, JudgeQuality]
    """The figures of every subset; empty where nobody asked for any."""
    panel: Panel | None
    """The judge beside each of the people, where rows name them."""
    left_out: int
    """Bad rows that were skipped."""

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON values: the figures over all rows, ``by`` subset, and the ``panel``."""
        return {
            "what": self.what,
            "data": self.data,
            **self.quality.to_json(),
            "by": {name: quality.to_json() for name, quality in self.by.items()},
            "panel": self.panel and dataclasses.asdict(self.panel),
            "left_out": self.left_out,
        }
