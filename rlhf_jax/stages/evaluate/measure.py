"""From rows and whatever scores responses to the figures of an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax import rewards
from rlhf_jax.data import DataError
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.best_of import Choice
from rlhf_jax.data.one_file import list_bad
from rlhf_jax.data.rows import Demonstration, prompt_text
from rlhf_jax.evaluation.choices import ScoredChoice, by_subset, choice_quality, picked, worst_subset
from rlhf_jax.evaluation.reward_bench import SECTIONS, SUBSETS, section_scores, subset_scores
from rlhf_jax.stages.evaluate.result import Benchmark, Evaluation, Golden, Members
from rlhf_jax.stages.evaluate.rows import REWARD_BENCH, EvaluatedRow, EvaluatedRows
from rlhf_jax.stages.evaluate.scorers import ResponseScorer, Scored
from rlhf_jax.training.progress import Progress


class Measured(NamedTuple):
    """Rows with the scores of their responses."""

    rows: list[EvaluatedRow]
    scored: list[ScoredChoice]  # one a row
    members: list[list[ScoredChoice]]  # by member of an ensemble; empty where there is one model
    disagreement: float
    left_out: int


def measure(read: EvaluatedRows, scorer: ResponseScorer, on_bad_row: OnBadRow) -> Measured:
    """Score every response of the rows.

    Args:
        read: the rows.
        scorer: what is evaluated.
        on_bad_row: a row that cannot be scored stops it, or is skipped and listed.

    Returns:
        The rows that could be scored, with their scores.

    Raises:
        DataError: on a row that cannot be scored, unless it is to be skipped; and where none can.
    """
    if odd := scorer.remark([response for row in read.rows for response in demonstrations(row.choice)]):
        print(f"warning: {odd}", file=sys.stderr)
    rows, asked, bad = [], [], []
    for row in read.rows:
        try:
            ready = [scorer.ready(response) for response in demonstrations(row.choice)]
        except DataError as error:
            if on_bad_row == "error":
                raise
            bad.append(str(error))
            continue
        rows.append(row)
        asked += ready
    list_bad(bad)
    if not rows:
        raise DataError(f"no row is left to evaluate {scorer.what} on, of {len(read.rows)}")
    with Progress("evaluate", len(asked)) as progress:
        found = scorer.score(asked, lambda done: progress.update(done, {}))
    each = [] if found.members is None else [_choices(rows, member) for member in found.members]
    return Measured(rows, _choices(rows, found.scores), each, _disagreement(found), read.left_out + len(bad))


def demonstrations(choice: Choice) -> list[Demonstration]:
    """List the responses of a row, each after its prompt.

    Args:
        choice: the row.
    """
    return [Demonstration(choice.prompt, response, choice.where) for response in choice.responses]


def evaluation(
    measured: Measured, read: EvaluatedRows, what: str, data: str, *, golden: Golden | None, seed: int
) -> Evaluation:
    """Compute all figures.

    Args:
        measured: the rows with their scores.
        read: what was read.
        what: what is evaluated.
        data: where the rows are from.
        golden: agreement with golden items, if there are some.
        seed: what the intervals' resampling depends on.
    """
    by = by_subset(measured.scored, seed=seed)
    members = None
    if measured.members:
        accuracies = (choice_quality(scored, lengths=False).accuracy for scored in measured.members)
        members = Members(accuracies=tuple(accuracies), disagreement=measured.disagreement)
    return Evaluation(
        what=what,
        data=data,
        quality=choice_quality(measured.scored, seed=seed),
        by=by,
        worst=worst_subset(by),
        golden=golden,
        benchmark=_benchmark(read.benchmark, measured),
        members=members,
        left_out=measured.left_out,
    )


def golden_items(measured: Measured, source: str, *, seed: int) -> Golden:
    """Compute the agreement with golden items.

    Args:
        measured: the items with their scores.
        source: the file they are from.
        seed: what the interval's resampling depends on.
    """
    missed = tuple(
        row.choice.where
        for row, scored in zip(measured.rows, measured.scored, strict=True)
        if scored.right and picked(scored.scores, scored.right) == 0
    )
    return Golden(source=source, quality=choice_quality(measured.scored, lengths=False, seed=seed), missed=missed)


def _choices(rows: Sequence[EvaluatedRow], scores: np.ndarray) -> list[ScoredChoice]:
    """Give every row its part of the scores."""
    found, start = [], 0
    for row in rows:
        own = scores[start : start + len(row.choice.responses)].astype(np.float64)
        start += len(own)
        lengths = np.array([len(text) for text in row.choice.responses])
        prompt = prompt_text(row.choice.prompt)
        found.append(ScoredChoice(own, row.choice.right, row.choice.share, lengths, prompt, row.subset))
    return found


def _disagreement(found: Scored) -> float:
    return 0.0 if found.members is None else float(rewards.disagreement(jnp.asarray(found.members)).mean())


def _benchmark(name: str, measured: Measured) -> Benchmark | None:
    """Compute a benchmark's own scores; none where rows are no benchmark's."""
    if not name:
        return None
    rows = [scored._replace(subset=row.part) for row, scored in zip(measured.rows, measured.scored, strict=True)]
    if name == REWARD_BENCH:
        scores, every = section_scores(rows), tuple(SECTIONS)
    else:
        scores, every = subset_scores(rows, [row.id for row in measured.rows]), SUBSETS
    whole = set(scores) == set(every)
    return Benchmark(name=name, scores=scores, score=float(np.mean(list(scores.values()))) if whole else None)
