"""Comparisons from before the first round: pairs of a data set, to train on again or to hold samples against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import feedback
from rlhf_jax.data import Comparison, DataError, RatedResponse
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.order import epoch_order, evenly
from rlhf_jax.stages.rounds.config import RoundsConfig
from rlhf_jax.stages.task import Task


class Old(NamedTuple):
    """The old comparisons by what they are for."""

    train: list[Comparison]  # every retraining sees these
    validation: list[Comparison]
    test: list[Comparison]
    spare: Callable[[int], list[Comparison]]  # what a round may have labelled in place of samples, by its number


def old_pairs(config: RoundsConfig, task: Task) -> Old:
    """Take the old comparisons out of ``config.reward.data``.

    Rows that are pairs are taken as they are. Where rows are rated responses, random pairs of those to one prompt are
    drawn, which have the votes of their raters (``feedback.votes``).

    Args:
        config: the rounds'.
        task: the data set's.

    Returns:
        ``old_pairs`` of them to train on and ``old_heldout`` in either held-out part, spread over all there are; and
        for each round pairs that none of these and no other round has.

    Raises:
        DataError: when rows are single responses with labels.
    """
    found, source = task.asked("opinions", config.reward.data.source)(config.reward.data), config.reward.data
    train = _pairs(found.train, source)
    order = epoch_order(len(train), config.seed, 0)
    mixed = [train[i] for i in order.tolist()]

    def spare(number: int) -> list[Comparison]:
        first = config.old_pairs + (number - 1) * config.prompts
        return mixed[first : first + config.prompts]

    return Old(
        mixed[: config.old_pairs],
        evenly(_pairs(found.validation, source), config.old_heldout),
        evenly(_pairs(found.test, source), config.old_heldout),
        spare,
    )


def _pairs(rows: Sequence[Any], source: DataConfig) -> list[Comparison]:
    """All comparisons of two among rows, or the pairs that are drawn of rated responses."""
    rated = [row for row in rows if isinstance(row, RatedResponse)]
    given = [row for row in rows if isinstance(row, Comparison)]
    if len(rated) + len(given) < len(rows):
        raise DataError(f"{source.source}: expected comparisons or ratings, found single responses with labels")
    found = [row for row in given if len(row.responses) == 2]
    if not rated:
        return found
    drawn = feedback.random_pairs([str(row.prompt) for row in rated], 1, seed=0)
    if not len(drawn):
        return found
    votes = feedback.votes_from_histograms(feedback.histograms([row.ratings for row in rated])[drawn])
    for (i, j), table in zip(drawn.tolist(), votes, strict=True):
        one, other = rated[i], rated[j]
        if one.response.strip() != other.response.strip():
            pair = (one.response, other.response)
            found.append(Comparison(one.prompt, pair, np.asarray(table, np.float32), one.where))
    return found
