"""From the body of an answer to its text and log-probabilities: the form is checked here, the meaning elsewhere.

What comes from a server may be anything: every part is looked at before it is used.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np

_BROKEN_OFF = {"abort", "cancelled", "error"}  # how servers say that they ended an answer, not the model
_ROUNDING = 1e-3  # log-probabilities of a server's own arithmetic may lie this far above 0


class Reply(NamedTuple):
    """What a model answered."""

    text: str
    """Empty where the model said nothing, or refused."""
    places: tuple[tuple[str, dict[str, float]], ...] = ()
    """Each token's text with the log-probabilities, in nats, of the likeliest tokens there, its own among them; empty
    where the server gives none."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    """Tokens of the question and of the answer; None where the server does not say."""
    cut: bool = False
    """Whether the answer ended because it had as many tokens as it may have."""


def read_reply(body: str, *, chat: bool = True) -> Reply:
    """Read the body of a completion.

    Args:
        body: JSON.
        chat: whether it answers a chat; otherwise it goes on with a text.

    Returns:
        The reply.

    Raises:
        ValueError: it is half an answer, or something else than a completion.

    Example:
        >>> read_reply('{"choices": [{"message": {"content": "B"}}], "usage": {"prompt_tokens": 9}}')
        Reply(text='B', places=(), tokens_in=9, tokens_out=None, cut=False)
    """
    try:
        answer = json.loads(body, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from error
    choices = _entry(answer, "choices", list, "the answer")
    if not choices:
        raise ValueError("choices is empty")
    if chat:
        message = _entry(choices[0], "message", dict, "choices[0]")
        text, places = _entry(message, "content", str | None, "choices[0].message") or "", _places(choices[0])
        text = "" if message.get("refusal") else text
    else:
        text, places = _entry(choices[0], "text", str, "choices[0]"), _places_of_text(choices[0])
    ended = choices[0].get("finish_reason")
    if isinstance(ended, str) and ended in _BROKEN_OFF:
        raise ValueError(f"finish_reason is {ended}")
    if ended == "content_filter":
        text, places = "", ()
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text, places, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), ended == "length"
    )


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _entry(of: Any, name: str, kind: Any, called: str) -> Any:
    if not isinstance(of, dict) or name not in of or not isinstance(of[name], kind):
        raise ValueError(f"{called} has no {name} as a completion has it")
    return of[name]


def _count(value: Any) -> int | None:
    """Read a number of tokens; one that is none is not known, and takes no vote away."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


def _places(choice: dict[str, Any]) -> tuple[tuple[str, dict[str, float]], ...]:
    """Read log-probabilities; older servers have other forms of them, which count as none given."""
    given = choice.get("logprobs")
    content = given.get("content") if isinstance(given, dict) else None
    if not content:
        return ()
    if not isinstance(content, list):
        raise ValueError("logprobs.content is no list")
    return tuple(_place(place) for place in content)


def _places_of_text(choice: dict[str, Any]) -> tuple[tuple[str, dict[str, float]], ...]:
    """Read the log-probabilities of a text that goes on, which have a form of their own."""
    given = choice.get("logprobs")
    if not isinstance(given, dict) or not given.get("tokens"):
        return ()
    tokens, own = (_entry(given, name, list, "logprobs") for name in ("tokens", "token_logprobs"))
    likely = given.get("top_logprobs") or [{}] * len(tokens)
    if not isinstance(likely, list) or not len(tokens) == len(own) == len(likely):
        raise ValueError("logprobs are not as many as tokens")
    found = []
    for token, logprob, others in zip(tokens, own, likely, strict=True):
        if not isinstance(others, dict | None):
            raise ValueError("top_logprobs is no list of objects")
        tops = [{"token": name, "logprob": value} for name, value in (others or {}).items()]
        found.append(_place({"token": token, "logprob": logprob, "top_logprobs": tops}))
    return tuple(found)


def _place(place: Any) -> tuple[str, dict[str, float]]:
    token = _entry(place, "token", str, "logprobs.content")
    likely = place.get("top_logprobs")
    if not isinstance(likely, list | None):
        raise ValueError("top_logprobs is no list")
    found: dict[str, float] = {}
    for one in likely or []:
        name, value = (
            _entry(one, "token", str, "top_logprobs"),
            _entry(one, "logprob", int | float | None, "top_logprobs"),
        )
        if value is not None:  # JSON has no -inf, and some servers write null for it
            # Two tokens may have one text, as parts of a character have.
            found[name] = float(np.logaddexp(found.get(name, -math.inf), _checked(value)))
    own = _checked(_entry(place, "logprob", int | float, "logprobs.content"))
    found.setdefault(token, own)  # usually among the likely ones
    return token, found


def _checked(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value) or value > _ROUNDING:
        raise ValueError(f"{value!r} is no log-probability")
    return float(value)
