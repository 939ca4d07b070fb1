"""What a policy's responses look like, and whether a judge prefers them to another policy's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, wilson

Tokens = Sequence[Hashable] | np.ndarray | str


def distinct_n(responses: Sequence[Tokens], n: int) -> float:
    """Share of n-grams, over all responses together, that are different from one another.

    Args:
        responses: token ids, or texts (split at white space).
        n: length of the n-grams.

    Returns:
        A number in [0, 1]; 0 when no response is ``n`` long. It falls as the responses become more, so compare
        only figures over equally many.

    Raises:
        ValueError: if ``n`` is below 1.

    Example:
        >>> distinct_n(["a b c", "a b d"], 2)  # ab bc ab bd
        0.75

    Source: Li et al. (2016), A diversity-promoting objective function for neural conversation models.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
    grams = [gram for response in responses for gram in _grams(_tokens(response), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def unique_tokens(responses: Sequence[Tokens]) -> int:
    """How many different tokens occur in all responses together.

    Args:
        responses: token ids, or texts (split at white space).

    Returns:
        The count.

    Example:
        >>> unique_tokens([[1, 2, 2], [2, 3]])
        3
    """
    return len({token for response in responses for token in _tokens(response)})


def most_common_share(responses: Sequence[Tokens]) -> float:
    """Share of the responses that are the single most frequent one: 1 when all prompts get the same answer.

    Args:
        responses: token ids, or texts (split at white space).

    Returns:
        A number in [1/n, 1]; 0 when there is no response.

    Example:
        >>> most_common_share(["same", "same", "same", "other"])
        0.75
    """
    counts = Counter(_tokens(response) for response in responses)
    return max(counts.values()) / len(responses) if counts else 0.0


def describe_responses(responses: Sequence[Tokens], finished: ArrayLike) -> dict[str, float]:
    """Describe a batch of responses with the figures that need no judge.

    Args:
        responses: [n] token ids (padding cut off), or texts.
        finished: bool [n], whether each ended with the end-of-sequence token.

    Returns:
        ``length``, ``length_std``, ``eos_rate``, ``distinct_1``, ``distinct_2``, ``unique_tokens`` and
        ``most_common``, ready for the log.

    Raises:
        ValueError: if there is no response or ``finished`` has another length.

    Example:
        >>> figures = describe_responses([[5, 6, 2], [5, 6, 7, 8]], [True, False])
        >>> figures["length"], figures["eos_rate"], figures["unique_tokens"]
        (3.5, 0.5, 5.0)
    """
    ended = np.asarray(finished, bool)
    if not len(responses) or ended.shape != (len(responses),):
        raise ValueError(f"expected n > 0 responses and finished [n], found {len(responses)} and {ended.shape}")
    lengths = np.array([len(_tokens(response)) for response in responses], np.float64)
    return {
        "length": float(lengths.mean()),
        "length_std": float(lengths.std()),
        "eos_rate": float(ended.mean()),
        "distinct_1": distinct_n(responses, 1),
        "distinct_2": distinct_n(responses, 2),
        "unique_tokens": float(unique_tokens(responses)),
        "most_common": most_common_share(responses),
    }


def win_rate(gold_a: ArrayLike, gold_b: ArrayLike) -> tuple[float, Interval]:
    """How often a judge scores A's response above B's to the same prompt, ties counted half, with a 95% interval.

    Args:
        gold_a: [n], the judge's score of A's response to each prompt.
        gold_b: [n], the judge's score of B's response. There is one response to a prompt on either side, since the
            interval takes the n comparisons as independent.

    Returns:
        (rate, (low, high)), a Wilson interval.

    Raises:
        ValueError: if the shapes disagree, there is no comparison, or a score is not finite.

    Example:
        >>> rate, (low, high) = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 1.0])
        >>> rate
        0.625
    """
    a, b = np.asarray(gold_a, np.float64), np.asarray(gold_b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"expected two lists of n > 0 scores, found shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a judge's score is not finite, so the comparison has no winner")
    wins = float((a > b).sum() + 0.5 * (a == b).sum())
    return wins / a.size, wilson(wins, a.size)


def _tokens(response: Tokens) -> tuple[Hashable, ...]:
    if isinstance(response, str):
        return tuple(response.split())
    return tuple(response.tolist()) if isinstance(response, np.ndarray) else tuple(response)


def _grams(tokens: tuple[Hashable, ...], n: int) -> list[tuple[Hashable, ...]]:
    return [tokens[i : i + n] for i in range(len(tokens) - n + 1)]
