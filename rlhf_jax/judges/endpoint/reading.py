"""From a reply to what it says: which response is better, a score, an order. What says nothing of the kind is NaN.

An answer must begin with what was asked for, and say it once: "A response that...", "A or B" and "A. No, B." are no
choices, "7 - 8" and "1. It is clear" no scores. What a server has cut off before it was clear says nothing either.
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
_TAKES_BACK = re.compile(r"\W*(?:tied?|both|neither|none|no|or)\b", re.IGNORECASE)
_COMPARED = r"(?:\b(?:than|over|unlike|response|option)\s+)"
_OUT_OF = re.compile(r"(?:/|\bout of)\s*10\b", re.IGNORECASE)
_SAID_ORDER = r"[A-Z](?:\s*[>,]\s*[A-Z]\b|\s+[A-Z]\b)*"
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
    if not match or said is None or _unclear(match["said"], text[match.end("said") :], answers):
        return np.full(len(answers), np.nan)
    cut = reply.cut and not text[match.end("said") :].strip()
    if cut and (not reply.places or any(a != answers[said] and a.startswith(answers[said]) for a in answers)):
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
    text = _after_thoughts(reply.text)[0]
    match = _ORDER.match(text)
    order = [ord(letter) - ord("A") for letter in re.findall("[A-Z]", match["said"])] if match else []
    rest = text[match.end("said") :] if match else ""
    others = [re.findall("[A-Z]", other) for other in re.findall(rf"\b{_SAID_ORDER}", rest)]
    again = any(len(other) == count > 1 and [ord(x) - ord("A") for x in other] != order for other in others)
    if sorted(order) != list(range(count)) or again or _TAKES_BACK.match(rest):
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


def _unclear(said: str, rest: str, answers: Sequence[str]) -> bool:
    """Tell whether a reply goes on so that its answer is none: with another one, a range, a list, an echo."""
    others = [answer for answer in answers if answer.casefold() != said.casefold()]
    if _TAKES_BACK.match(rest):
        return True
    if all(answer.isdecimal() for answer in answers):
        if said == "1" and re.match(r"[.:)]\s+\w", rest):  # the first of a list
            return True
        rest = _OUT_OF.sub("", rest)
        line = rest.partition("\n")[0]
        numbers = re.findall(r"\d+", line) + re.findall(r"^\W*(\d+|/)", rest, re.MULTILINE)
        return any(number != said for number in numbers)
    for letter in (other for other in others if len(other) == 1):
        compared = rf"{_COMPARED}{letter}\b(?!\s*(?::|is\s+(?:the\s+)?be))"
        if re.search(rf"\b{letter}\b", re.sub(compared, "", rest, flags=re.IGNORECASE)):
            return True
    words = "|".join(re.escape(other) for other in others if len(other) > 1)
    return bool(words) and bool(
        re.search(rf"\b(?:{words})\b", rest.partition("\n")[0], re.IGNORECASE)
        or re.search(rf"^{_LEAD}(?:{words})[*_`\"')\].]*\s*$", rest, re.IGNORECASE | re.MULTILINE)
    )


def _after_thoughts(text: str) -> tuple[str, int]:
    """Skip what a model thinks aloud before it answers; where that has no end there is no answer."""
    match = _THOUGHTS.match(text)
    start = match.end() if match else 0
    return text[start:], start


def _place(reply: Reply, at: int) -> tuple[str, dict[str, float]]:
    """Find the token at a place of the text, with the log-probabilities there; nothing where none are given.

    Tokens that are not those of the text, but of what a model thought before it, say nothing of that place.
    """
    every = "".join(token for token, _ in reply.places)
    beyond = every.lstrip()[len(reply.text.lstrip()) :].strip()
    if beyond and not beyond.startswith(("<", "[")):  # what ends an answer may stand there
        return "", {}
    at += _indent(every) - _indent(reply.text)  # some servers take spaces off the text
    end = 0
    for token, likely in reply.places:
        end += len(token)
        if end > at:
            return (token, likely) if reply.text.lstrip().startswith(every[:end].lstrip()) else ("", {})
    return "", {}


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())
