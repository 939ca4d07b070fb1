"""From a reply to what it says: which response is better, a score, an order. What says nothing of the kind is NaN.

An answer must begin with what was asked for, and say it once: "A response that..." and "A or B" are no choices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from rlhf_jax.judges.endpoint.replies import Reply

_THOUGHTS = re.compile(r"\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_LEAD = (
    r"[\s*_#`\"'(\[]*(?:(?:the\s+)?(?:final\s+)?(?:better\s+)?(?:answer|response|option|choice|verdict|winner|score|"
    r"rating|ranking|order)\s*(?:is\b|:|=)?\s*:?)?[\s*_#`\"'(\[]*"
)
_END = (
    r"[*_`\"')\]]*(?:\s*/\s*10|\s+out\s+of\s+10)?[*_`\"')\]]*"
    r"(?:\s*$|\s+is\s+(?:the\s+)?better\b|\s*\n|[.;:](?:\s|$)|\s+[(\u2013\u2014-])"
)
_ORDER = re.compile(rf"{_LEAD}(?P<said>(?-i:[A-Z](?:\s*[>,]\s*[A-Z]|\s+[A-Z])*)){_END}", re.IGNORECASE)


def read_choice(reply: Reply, answers: Sequence[str]) -> np.ndarray:
    """Read which of a few answers a reply is, by the probabilities of all of them where the server gives any.

    ``P(a) / sum_b P(b)`` at the token that says the answer; or 1 for the answer and 0 for the others.

    Args:
        reply: the model's.
        answers: A words, letters or numbers; letters have to be written as they are, words may have capitals.

    Returns:
        [A], the share of each answer; all NaN where the reply is none of them.

    Example:
        >>> read_choice(Reply("B"), "AB").tolist(), read_choice(Reply("A or B"), "AB").tolist()
        ([0.0, 1.0], [nan, nan])
        >>> read_choice(Reply("B", (("B", {"B": -0.1054, " A": -2.3026}),)), "AB").round(3).tolist()
        [0.1, 0.9]
    """
    answers = tuple(answers)  # a text of letters has longer texts, and the empty one, in it
    text, start = _after_thoughts(reply.text)
    words = "|".join(f"(?-i:{answer})" if len(answer) == 1 else re.escape(answer) for answer in answers)
    match = re.match(rf"{_LEAD}(?P<said>{words}){_END}", text, re.IGNORECASE)
    said = _meant(match["said"], answers) if match else None
    if not match or said is None or _shows_others(text[match.end() :], answers):
        return np.full(len(answers), np.nan)
    shares = np.zeros(len(answers))
    token, likely = _place(reply, start + match.start("said"))
    if _meant(token, answers) == said:  # and not as the 1 of a 10, which other answers may begin with too
        for other, logprob in likely.items():
            if (meant := _meant(other, answers)) is not None:
                shares[meant] += math.exp(logprob)
    if not shares.sum():
        shares[said] = 1.0
    return shares / shares.sum()


def read_order(reply: Reply, count: int) -> np.ndarray:
    """Read an order of responses that go by letters, the best first.

    Args:
        reply: the model's, as ``B > A > C``.
        count: how many there are, K.

    Returns:
        [K, K], 1 for the response that comes before another, 0 for that behind it, and 0 on the diagonal; all NaN where
        the reply does not name every letter once.

    Example:
        >>> read_order(Reply("B > A"), 2).tolist(), read_order(Reply("B"), 2).tolist()
        ([[0.0, 0.0], [1.0, 0.0]], [[nan, nan], [nan, nan]])
    """
    match = _ORDER.match(_after_thoughts(reply.text)[0])
    order = [ord(letter) - ord("A") for letter in re.findall("[A-Z]", match["said"])] if match else []
    if sorted(order) != list(range(count)):
        return np.full((count, count), np.nan)
    place = np.argsort(order)
    return (place[:, None] < place[None, :]).astype(np.float64)


def _meant(token: str, answers: tuple[str, ...]) -> int | None:
    """Tell which answer a token says, or begins as no other does; None where it says none."""
    plain = token.strip(" \t\n*_`\"'([")
    if plain in answers:
        return answers.index(plain)
    begun = [i for i, a in enumerate(answers) if len(plain) > 1 and a.casefold().startswith(plain.casefold())]
    return begun[0] if len(begun) == 1 else None


def _shows_others(rest: str, answers: Sequence[str]) -> bool:
    """Tell whether a reply goes on with the other responses, "A: Hello. B: No.": an echo of the question, no choice."""
    letters = [answer for answer in answers if len(answer) == 1 and answer.isalpha()]
    return any(re.search(rf"\b{letter}\s*:", rest) for letter in letters)


def _after_thoughts(text: str) -> tuple[str, int]:
    """Skip what a model thinks aloud before it answers; where that has no end there is no answer."""
    match = _THOUGHTS.match(text)
    start = match.end() if match else 0
    return text[start:], start


def _place(reply: Reply, at: int) -> tuple[str, dict[str, float]]:
    """Find the token at a place of the text, with the log-probabilities there; nothing where none are given."""
    end = 0
    for token, likely in reply.places:
        end += len(token)
        if end > at:
            return token, likely
    return "", {}
