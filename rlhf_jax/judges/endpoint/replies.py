"""From the body of an answer to its text and log-probabilities: the form is checked here, the meaning elsewhere.

What comes from a server may be anything: every part is looked at before it is used.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np

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


def read_reply(body: str) -> Reply:
    """Read the body of a chat completion.

    Args:
        body: JSON.

    Returns:
        The reply.

    Raises:
        ValueError: it is half an answer, or something else than a chat completion.

    Example:
        >>> read_reply('{"choices": [{"message": {"content": "B"}}], "usage": {"prompt_tokens": 9}}')
        Reply(text='B', places=(), tokens_in=9, tokens_out=None)
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
    message = _entry(choices[0], "message", dict, "choices[0]")
    text = _entry(message, "content", str | None, "choices[0].message") or ""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(text, _places(choices[0]), _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _entry(of: Any, name: str, kind: Any, called: str) -> Any:
    if not isinstance(of, dict) or name not in of or not isinstance(of[name], kind):
        raise ValueError(f"{called} has no {name} as a chat completion has it")
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
