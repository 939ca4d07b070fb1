"""Pairs of responses that were not trained on, what people said of them, and how well scores agree with that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax import evaluation


class HeldOutPairs(NamedTuple):
    """Responses that were not trained on, and which of them people preferred."""

    sequences: list[np.ndarray]  # n token sequences, prompt and response
    starts: list[int]  # n, where the response begins in each
    texts: list[str]  # n responses
    ratings: list[np.ndarray]  # n arrays, what every rater gave; empty where rows are pairs
    pairs: np.ndarray  # int64 [m, 2]
    share: np.ndarray  # float64 [m], share of votes for the first
    votes: np.ndarray  # float32 [m, 2, 2]; [i, j] = votes that prefer i to j, as in training
    domains: list[str]  # n
    golden: np.ndarray | None  # indices of the responses on which people agree most


def pair_metrics(scores: np.ndarray, held: HeldOutPairs) -> dict[str, float]:
    """Compute the Bradley-Terry loss (nats a pair, soft labels) and the accuracy of scores on held-out pairs."""
    gap = scores[held.pairs[:, 0]] - scores[held.pairs[:, 1]]
    loss = held.share * np.logaddexp(0.0, -gap) + (1 - held.share) * np.logaddexp(0.0, gap)
    counted, correct = evaluation.pair_accuracy(scores, held.pairs, held.share)
    # Where all pairs tie there is no accuracy.
    return {"loss": float(loss.mean()), **({"accuracy": float(correct[counted].mean())} if counted.any() else {})}
