"""What a reward model is retrained on, and how often it is right on a round's pairs before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import evaluation
from rlhf_jax.data import Comparison
from rlhf_jax.data.encode import encode
from rlhf_jax.data.parts import Parts
from rlhf_jax.data.rows import Demonstration
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages.rounds.drawing import share_of
from rlhf_jax.stages.rounds.old import Old
from rlhf_jax.stages.task import Task

Labelled = Mapping[str, Sequence[Comparison]]


def union(task: Task, old: Old, rounds: Sequence[Labelled], *, window: int) -> Task:
    """Make the data set of a retraining: old comparisons and those of the latest rounds, each in its part.

    Args:
        task: the data set that policies are asked on, whose prompts and judges stay.
        old: comparisons from before the first round.
        rounds: what was labelled in each round so far, by ``""``, ``validation`` and ``test``.
        window: how many of the latest rounds count; 0 takes all.

    Returns:
        A task with these opinions.
    """
    kept = rounds[-window:] if window else rounds
    parts = Parts(
        [*old.train, *(row for found in kept for row in found[""])],
        [*old.validation, *(row for found in kept for row in found["validation"])],
        [*old.test, *(row for found in kept for row in found["test"])],
    )
    return dataclasses.replace(task, opinions=lambda _: parts, baselines=None)


def accuracy(scorer: Scorer, rows: Sequence[Comparison]) -> dict[str, Any]:
    """Measure how often a reward model prefers what was preferred, with an interval of 95% that resamples pairs.

    Args:
        scorer: the reward model; an ensemble's mean.
        rows: labelled pairs; those that tie do not count.

    Returns:
        ``accuracy``, ``ci`` and ``pairs``; None in place of the first two where nothing counts.
    """
    correct = _correct(scorer, rows) if rows else np.zeros(0)
    if not len(correct):
        return {"accuracy": None, "ci": None, "pairs": 0}
    interval = evaluation.bootstrap_mean(correct, seed=0)
    return {"accuracy": float(correct.mean()), "ci": list(interval), "pairs": len(correct)}


def _correct(scorer: Scorer, rows: Sequence[Comparison]) -> np.ndarray:
    """1 where the scores order a pair as those did who labelled it, 0 where not, 1/2 where they tie."""
    texts = [Demonstration(row.prompt, text, row.where) for row in rows for text in row.responses]
    scores = scorer.score_tokens([encode(text, scorer.tokenizer).tokens[0] for text in texts])
    pairs = np.arange(len(texts)).reshape(-1, 2)
    counted, correct = evaluation.pair_accuracy(scores, pairs, [share_of(row) for row in rows])
    return correct[counted]
