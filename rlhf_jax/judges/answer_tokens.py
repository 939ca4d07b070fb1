"""A few words that may answer a question, as tokens, and how likely each of them is.

"A" and "B" mostly are a token each. "1" and "10" share their first where a tokenizer writes digits singly: what follows
the 1 is read too, so that a 10 is no 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Tokens = tuple[int, ...]


class Place(NamedTuple):
    """A place within answers, after which they go on."""

    tokens: tuple[int, ...]
    """How."""
    below: tuple[tuple[int, ...], ...]
    """The answers behind each token."""
    ends: int | None
    """The answer that ends here."""


class AnswerTokens(NamedTuple):
    """Answers as tokens."""

    opening: Tokens
    """What all of them begin with."""
    places: Mapping[Tokens, Place]
    """By an answer's tokens up to there."""
    size: int
    """How many there are, A."""

    @property
    def paths(self) -> tuple[Tokens, ...]:
        """What is written behind a question so that every place is read: most lie on the way to another one."""
        return tuple(a for a in self.places if not any(b[: len(a)] == a and b != a for b in self.places))

    def probabilities(self, logprobs: Mapping[Tokens, np.ndarray]) -> np.ndarray:
        """Find how likely each answer is.

        It is the product over its tokens. Where an answer ends and another goes on, whatever else may follow counts for
        the one that ends.

        Args:
            logprobs: for each place, [n, T], the log-probabilities of its tokens.

        Returns:
            float64 [n, A].
        """
        found = np.ones((len(logprobs[()]), self.size))
        for after, place in self.places.items():
            p = np.exp(np.asarray(logprobs[after], np.float64))
            if place.ends is not None:
                found[:, place.ends] *= np.maximum(0.0, 1 - p.sum(-1))
            for token, answers in enumerate(place.below):
                found[:, list(answers)] *= p[:, [token]]
        return found


def answer_tokens(sequences: Sequence[Sequence[int]]) -> AnswerTokens:
    """Find where answers go on, and how.

    Args:
        sequences: the tokens of each answer, without what ends it; at least two.

    Returns:
        Their places, the shorter ones first.

    Raises:
        ValueError: when two of them are the same.

    Example:
        >>> found = answer_tokens([[7, 1], [7, 1, 0], [7, 2]])
        >>> found.opening, {after: (place.tokens, place.ends) for after, place in found.places.items()}
        ((7,), {(): ((1, 2), None), (1,): ((0,), 0)})
    """
    whole = [tuple(int(token) for token in sequence) for sequence in sequences]
    if len(set(whole)) < len(whole):
        raise ValueError("two answers have the same tokens: the tokenizer cannot tell them apart")
    shared = 0
    while all(len(s) > shared and s[shared] == whole[0][shared] for s in whole):
        shared += 1
    rest = [s[shared:] for s in whole]
    places: dict[Tokens, Place] = {}
    for after in sorted({s[:n] for s in rest for n in range(len(s))}, key=lambda a: (len(a), a)):
        here = {i: s[len(after) :] for i, s in enumerate(rest) if s[: len(after)] == after}
        tokens = tuple(dict.fromkeys(s[0] for s in here.values() if s))
        below = tuple(tuple(i for i, s in here.items() if s[:1] == (token,)) for token in tokens)
        places[after] = Place(tokens, below, next((i for i, s in here.items() if not s), None))
    return AnswerTokens(whole[0][:shared], places, len(whole))
