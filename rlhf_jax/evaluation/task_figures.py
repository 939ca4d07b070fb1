"""Figures of a task by its rows: perplexities and shares, each with an interval, and paired between two models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.evaluation.intervals import Interval, bootstrap_groups, percentiles, resampled


class Parts(NamedTuple):
    """What each row adds to a figure, ``f(sum of above / sum of below)``."""

    above: np.ndarray  # [n]: nats for a perplexity; 1 or 0 for a share
    below: np.ndarray  # [n], above 0: tokens, bytes or words; 1 for a share
    exponential: bool = False  # f is exp, that of a perplexity, or the identity

    def figure(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Compute the figure, with rows weighed as in a bootstrap's draws: [...] for weights [..., n]."""
        w = np.ones(len(self.above)) if weights is None else weights
        mean = (w @ self.above) / (w @ self.below)
        return np.exp(mean) if self.exponential else mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a task."""

    value: float
    """The figure, or a difference of two models'."""
    ci: Interval
    """95%, a bootstrap over documents or prompts."""


def task_figure(parts: Parts, groups: Sequence[str], *, seed: int = 0) -> Figure:
    """Compute a figure of a task with its interval; rows of one prompt or document are resampled together.

    Args:
        parts: what every row adds, [n] each.
        groups: [n], which prompt or document a row is of.
        seed: what the resampling depends on.

    Returns:
        The figure. Where all rows are right, or all wrong, the interval is Wilson's.

    Raises:
        ValueError: if there is no row or the shapes disagree.

    Example:
        >>> nats, tokens = np.array([2.0, 4.0]), np.array([2.0, 2.0])
        >>> round(task_figure(Parts(nats, tokens, exponential=True), ["a", "b"]).value, 4)  # exp(6 / 4)
        4.4817
    """
    _check(parts, groups)
    if not parts.exponential and (parts.below == 1).all():
        return Figure(value=float(parts.figure()), ci=bootstrap_groups(parts.above, groups, seed=seed, within=(0, 1)))
    drawn = [parts.figure(weights) for weights in resampled(np.asarray(groups), seed=seed, draws=2000)]
    return Figure(value=float(parts.figure()), ci=percentiles(np.concatenate(drawn)))


def task_difference(first: Parts, second: Parts, groups: Sequence[str], *, seed: int = 0) -> Figure:
    """Compute by how much one model's figure is above another's on the same rows, with a paired interval.

    Both are measured on the same rows in every draw, so that what is hard for both falls out.

    Args:
        first: what every row adds to the one model's figure, [n] each.
        second: the same of the other; its tokens may be others.
        groups: [n], which prompt or document a row is of.
        seed: what the resampling depends on.

    Returns:
        The first figure less the second.

    Raises:
        ValueError: if there is no row or the shapes disagree.

    Example:
        >>> right, wrong = np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
        >>> task_difference(Parts(right, np.ones(4)), Parts(wrong, np.ones(4)), ["a", "b", "c", "d"]).value
        0.25
    """
    _check(first, groups)
    _check(second, groups)
    drawn = [
        first.figure(weights) - second.figure(weights)
        for weights in resampled(np.asarray(groups), seed=seed, draws=2000)
    ]
    return Figure(value=float(first.figure() - second.figure()), ci=percentiles(np.concatenate(drawn)))


def _check(parts: Parts, groups: Sequence[Any]) -> None:
    if not len(groups) or not len(parts.above) == len(parts.below) == len(groups):
        found = f"{len(parts.above)}, {len(parts.below)} and {len(groups)}"
        raise ValueError(f"expected as many parts above and below as groups, and at least one, found {found}")
