"""Responses that are the same to the model: compared as the tokens that are trained on, not as the text of the row.

A tokenizer or a chat template may write two texts with the same tokens: white space at the ends goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.encode import EVEN
from rlhf_jax.data.packing import Example


def same_tokens(example: Example) -> bool:
    """Whether both responses of a pair are the same tokens.

    Example:
        >>> same_tokens(Example((np.array([1, 5]), np.array([1, 5])), (1, 1)))
        True
    """
    return len(example.tokens) == 2 and np.array_equal(*example.tokens)


def telling(examples: Sequence[Example]) -> tuple[list[int], list[str]]:
    """Find the pairs or labelled responses that say which response is better.

    A pair of equal responses says nothing, nor do rows about the same responses whose votes, or labels, come to a draw.

    Args:
        examples: pairs with votes, single responses with a label, or rankings of more responses, which all stay.

    Returns:
        The places of those that do, in order; and a sentence with a count for each kind that was left out, or that was
        voted on both ways and stays.

    Example:
        >>> def pair(first, second, votes):
        ...     return Example((np.array([1, first]), np.array([1, second])), (1, 1), np.array(votes, np.float32))
        >>> won, lost = [[0, 1], [0, 0]], [[0, 0], [1, 0]]
        >>> kept, notes = telling([pair(5, 5, won), pair(5, 6, won), pair(5, 6, lost), pair(7, 8, won)])
        >>> kept
        [3]
        >>> notes[0]
        '1 pair is left out: both responses are the same tokens'
    """
    equal = {place for place, example in enumerate(examples) if same_tokens(example)}
    about: defaultdict[tuple[bytes, ...], list[tuple[int, float]]] = defaultdict(list)
    for place, example in enumerate(examples):
        if place not in equal and len(example.tokens) < 3:  # a ranking says more than which of two is better
            key, says = _opinion(example)
            about[key].append((place, says))
    both_ways = [found for found in about.values() if {np.sign(says) for _, says in found} >= {-1.0, 1.0}]
    drawn = [found for found in both_ways if abs(sum(says for _, says in found)) < EVEN]
    out = equal | {place for found in drawn for place, _ in found}
    what = "pair" if any(len(example.tokens) == 2 for example in examples) else "labelled response"
    notes = []
    if equal:
        notes.append(f"{_left_out(len(equal), what)}: both responses are the same tokens")
    if drawn:
        rows = sum(map(len, drawn))
        notes.append(f"{_left_out(rows, what)}: others say the opposite of the same responses, to a draw")
    if len(both_ways) > len(drawn):
        rows = sum(map(len, both_ways)) - sum(map(len, drawn))
        notes.append(f"{rows:,} {what}s contradict each other about the same responses; the majority decides")
    return [place for place in range(len(examples)) if place not in out], notes


def _opinion(example: Example) -> tuple[tuple[bytes, ...], float]:
    """Take what a row is about, whatever its order, and how far it prefers the one that comes first in that order."""
    tokens = [np.asarray(t, np.int32).tobytes() for t in example.tokens]
    if example.votes is None:
        return tuple(tokens), 0.0 if example.labels is None else 2 * float(example.labels[0]) - 1
    says = float(example.votes[0, 1] - example.votes[1, 0])
    return (tuple(tokens), says) if tokens[0] <= tokens[1] else ((tokens[1], tokens[0]), -says)


def _left_out(number: int, what: str) -> str:
    return f"{number:,} {what} is left out" if number == 1 else f"{number:,} {what}s are left out"
