"""What a revision did: whether it says something else at all, or repeats the response, the request or the critique."""

from __future__ import annotations

import difflib
from typing import Literal

from rlhf_jax.evaluation.monitors.patterns import words_of

Did = Literal["revised", "echo", "request", "critique", "unfinished", "empty"]

ALIKE = 0.9  # two texts are the same where so large a share of their words is, in order
COPIED = 0.5  # a text is copied where so large a share of its runs of three words is
_RUN = 3

_QUOTES = {'"': '"', "\u201c": "\u201d", "'": "'", "\u2018": "\u2019"}


def what_it_did(revision: str, response: str, *, asked: str, critique: str, finished: bool) -> Did:
    """Say what a revision did.

    Args:
        revision: the text, without quotation marks around it.
        response: what was to be revised.
        asked: the principle and the requests, with which small models like to answer.
        critique: what was said of the response.
        finished: whether the revision came to its end.

    Returns:
        ``empty``; ``unfinished``; ``echo``, the response again, nine tenths of its words at least; ``request`` or
        ``critique``, half of whose runs of three words were taken from there; or ``revised``.

    Example:
        >>> said = {"asked": "Write it again so that it is kind.", "critique": "It is rude.", "finished": True}
        >>> what_it_did("go away", "Go away!", **said), what_it_did("Please stay.", "Go away!", **said)
        ('echo', 'revised')
        >>> what_it_did("I write it again so that it is kind.", "Go away!", **said)
        'request'
    """
    words = words_of(revision)
    if not any(any(letter.isalnum() for letter in word) for word in words):
        return "empty"
    if not finished:
        return "unfinished"
    if alike(revision, response) >= ALIKE:
        return "echo"
    runs, own = _runs(revision), _runs(response)
    fresh = runs - own  # what the response said already is no copy of anything else
    for did, text in (("request", asked), ("critique", critique)):
        if len(fresh & _runs(text)) > COPIED * len(runs):
            return "request" if did == "request" else "critique"
    return "revised"


def alike(one: str, other: str) -> float:
    """Compute the share of words that two texts have in common, in order; case and punctuation do not count.

    ``2 m / (n_1 + n_2)``, m the words of matching blocks

    Args:
        one: a text.
        other: another one.

    Returns:
        From 0 to 1.

    Example:
        >>> alike("The cat sat.", "the cat sat"), alike("The cat sat.", "A dog sat.")
        (1.0, 0.3333333333333333)
    """
    return difflib.SequenceMatcher(None, _plain(one), _plain(other), autojunk=False).ratio()


def unwrapped(text: str) -> str:
    """Take the blanks and the one pair of quotation marks off that stand around a whole text.

    Args:
        text: what a model said.

    Example:
        >>> unwrapped(' "Go on!" '), unwrapped('"Go" and "stay"')
        ('Go on!', '"Go" and "stay"')
    """
    bare = text.strip()
    close = _QUOTES.get(bare[:1], "")
    inner = bare[1:-1]
    if close and len(bare) > 1 and bare.endswith(close) and bare[0] not in inner and close not in inner:
        return inner.strip()
    return bare


def _plain(text: str) -> list[str]:
    return [word for word in words_of(text) if any(letter.isalnum() for letter in word)]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _plain(text)
    return {tuple(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))}
