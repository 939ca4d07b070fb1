"""Asking a judge so that its taste for a place shows: one that does not tell both orders apart is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.feedback.judges import Judge, Verdicts, judged

_AT_ONCE = 64  # prompts: a judge that takes long tells how far it is after each


def ask(
    judge: Judge,
    prompts: Sequence[Any],
    responses: Sequence[Sequence[str]],
    *,
    called: str,
    tell: Callable[[int], None] = lambda done: None,
    at_once: int = _AT_ONCE,
) -> Verdicts:
    """Ask a judge, and once more with the responses in the opposite order where it gives neither scores nor orders.

    A judge that scores each response alone sees no order. Votes are those of the judge as it is, which the first call
    gave where there were two.

    Args:
        judge: the judge.
        prompts: B prompts.
        responses: B lists of K texts.
        called: what messages call the judge.
        tell: told how many prompts are done, whenever some are.
        at_once: prompts that are asked about in one call.

    Returns:
        The verdicts; ``shown`` is there for every judge without scores.

    Raises:
        ValueError: as ``feedback.judges.judged`` does.

    Example:
        >>> first = lambda prompts, responses: [0.75 for _ in responses]
        >>> found = ask(first, ["Hi."], [["Hello!", "No."]], called="first")
        >>> found.votes[0].tolist(), found.shown[0].tolist()
        ([[0.0, 0.75], [0.25, 0.0]], [[0.0, 0.75], [0.75, 0.0]])
    """
    parts = []
    for start in range(0, len(prompts), at_once):
        asked, given = prompts[start : start + at_once], [list(r) for r in responses[start : start + at_once]]
        parts.append(_both(judge, asked, given, called))
        tell(start + len(asked))
    if not parts:
        return judged(judge, prompts, responses, called=called)
    votes = np.concatenate([part.votes for part in parts])
    return Verdicts(votes, _joined([part.shown for part in parts]), _joined([part.scores for part in parts]))


def _both(judge: Judge, prompts: Sequence[Any], responses: list[list[str]], called: str) -> Verdicts:
    found = judged(judge, prompts, responses, called=called)
    if found.scores is not None or found.shown is not None:
        return found
    turned = judged(judge, prompts, [r[::-1] for r in responses], called=called).votes[:, ::-1, ::-1]
    # Above the diagonal i stands before j in the first call, below it in the second.
    return found._replace(shown=np.triu(found.votes) + np.tril(turned))


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None
