"""The golden set: sentences that people agree about, so that a reward model that gets them wrong has no excuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Rated(Protocol):
    """Anything with an id and ratings, such as ``rlhf_jax.data.Sentence``."""

    @property
    def id(self) -> str:
        """The name by which equally disputed sentences are ordered."""

    @property
    def ratings(self) -> np.ndarray:
        """What every rater gave the sentence."""


def golden_set(sentences: Sequence[Rated], n: int = 500) -> np.ndarray:
    """Find the sentences whose ratings vary least; among equals, those with the smaller id.

    Args:
        sentences: rated sentences, such as the test split.
        n: how many to find.

    Returns:
        int64 [min(n, number of sentences)], their indices, the least disputed first.

    Example:
        >>> from types import SimpleNamespace as S
        >>> sentences = [S(id="c", ratings=[1, 1]), S(id="a", ratings=[0, 4]), S(id="b", ratings=[2, 2])]
        >>> golden_set(sentences, n=2).tolist()
        [2, 0]
    """

    def disagreement(index: int) -> tuple[float, str]:
        ratings = np.asarray(sentences[index].ratings, np.float64)
        # n^2 times the variance is a whole number for whole ratings, so that equal spreads are equal floats
        spread = len(ratings) * np.sum(ratings**2) - np.sum(ratings) ** 2
        return float(spread) / len(ratings) ** 2, sentences[index].id

    return np.asarray(sorted(range(len(sentences)), key=disagreement)[:n], np.int64)
