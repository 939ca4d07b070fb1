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
    """Measure how often a reward model prefers what was preferred, with an interval of 95% that resamples responses.

    Args:
        scorer: the reward model; an ensemble's mean.
        rows: labelled pairs; what several raters said of one is one pair, and those that tie do not count.

    Returns:
        ``accuracy``, ``ci`` and ``pairs``; None in place of the first two where nothing counts.
    """
    known: dict[tuple[str, str], int] = {}
    texts: list[Demonstration] = []
    votes: dict[tuple[int, ...], np.ndarray] = {}
    for row in rows:
        items = []
        for text in row.responses:
            place = known.setdefault((repr(row.prompt), text), len(known))
            if place == len(texts):
                texts.append(Demonstration(row.prompt, text, row.where))
            items.append(place)
        order = np.argsort(items)
        votes.setdefault(tuple(sorted(items)), np.zeros((2, 2)))[...] += np.asarray(row.votes)[np.ix_(order, order)]
    both = {pair: float(table[0, 1] + table[1, 0]) for pair, table in votes.items()}
    share = [float(table[0, 1]) / both[pair] if both[pair] else 0.5 for pair, table in votes.items()]
    pairs = np.array(list(votes), np.int64).reshape(-1, 2)
    if not len(pairs):
        return {"accuracy": None, "ci": None, "pairs": 0}
    scores = scorer.score_tokens([encode(text, scorer.tokenizer).tokens[0] for text in texts])
    counted, correct = evaluation.pair_accuracy(scores, pairs, share)
    right = correct[counted]
    if not len(right):
        return {"accuracy": None, "ci": None, "pairs": 0}
    interval = evaluation.bootstrap_pairs(right, pairs[counted], seed=0, within=(0, 1))
    return {"accuracy": float(right.mean()), "ci": list(interval), "pairs": len(right)}
