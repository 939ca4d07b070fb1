"""Rows of users' data, validated: what a row must hold, and what is said about one that does not.

A parse function takes a row (a mapping, as JSON or TFDS gives it) and ``where`` (such as ``"pairs.jsonl:12"``, which
begins every complaint). Fields that it does not know are left alone, so files with more in them need no preparation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.errors import DataError

ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
    """One turn of a chat."""

    role: str  # system, user or assistant
    content: str


Chat = tuple[Message, ...]
Prompt = str | Chat  # text, or the turns so far


class Demonstration(NamedTuple):
    """A prompt and a response to imitate."""

    prompt: Prompt
    response: str
    where: str


class Dialogue(NamedTuple):
    """A whole chat; every turn of the assistant is to be imitated."""

    messages: Chat
    where: str


class LabelledResponse(NamedTuple):
    """A response with thumbs up or down."""

    prompt: Prompt
    response: str
    label: bool
    where: str


class Comparison(NamedTuple):
    """K responses to one prompt and the votes among them."""

    prompt: Prompt
    responses: tuple[str, ...]
    votes: np.ndarray  # float32 [K, K]; [i, j] = votes that prefer i to j, ties counted half
    where: str


class PromptRow(NamedTuple):
    """A prompt alone."""

    prompt: Prompt
    where: str


class RatedResponse(NamedTuple):
    """A response and what every rater gave it."""

    prompt: str
    response: str
    ratings: np.ndarray  # float32 [n_raters]
    where: str


ANSWER = "\n\nAssistant:"  # opens the assistant's turn where a chat is written as plain text


def plain_turn(message: Message, first: bool = False) -> str:
    """One turn as plain text, as hh-rlhf writes it; of the system the text alone.

    Args:
      message: the turn.
      first: whether the chat begins with it.

    Returns:
      The text.

    Example:
        >>> plain_turn(Message("user", "Hi."))
        '\\n\\nHuman: Hi.'
    """
    if message.role == "system":
        return message.content if first else f"\n\n{message.content}"
    return f"\n\nHuman: {message.content}" if message.role == "user" else f"{ANSWER} {message.content}"


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text, for people and judges to read.

    Args:
      prompt: a text, or the turns so far.

    Returns:
      The text; of a chat its turns, the assistant's next one opened.

    Example:
        >>> prompt_text((Message("system", "Be brief."), Message("user", "Hi.")))
        'Be brief.\\n\\nHuman: Hi.\\n\\nAssistant:'
    """
    if isinstance(prompt, str):
        return prompt
    return "".join(plain_turn(message, first=index == 0) for index, message in enumerate(prompt)) + ANSWER


def parse_demonstration(row: Mapping[str, Any], where: str) -> Demonstration | Dialogue:
    """Reads ``prompt`` and ``response``, a whole chat (``parse_dialogue``) or Alpaca's fields (``parse_alpaca``).

    ``prompt`` is a text, or a list of ``{"role": ..., "content": ...}``.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The demonstration; of a row with ``messages`` the dialogue.

    Raises:
      DataError: if a field is missing or of the wrong kind.

    Example:
        >>> parse_demonstration({"prompt": "Say hello.", "response": ""}, "demos.jsonl:3")
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: demos.jsonl:3: field 'response': expected non-empty text, found '' (str); ...
    """
    if "messages" in row:
        return parse_dialogue(row, where)
    if "prompt" not in row and {"instruction", "output"} & row.keys():
        return parse_alpaca(row, where)
    return Demonstration(_prompt(row, where), _text(row, "response", where), where)


def parse_dialogue(row: Mapping[str, Any], where: str) -> Dialogue:
    """Reads ``messages``, a list of ``{"role": ..., "content": ...}`` with at least one turn of the assistant.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The dialogue.

    Raises:
      DataError: if the field is missing or of the wrong kind.

    Example:
        >>> turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
        >>> parse_dialogue({"messages": turns}, "chats.jsonl:1").messages[1].content
        'Hello!'
    """
    messages = _messages(_get(row, "messages", where), "messages", where)
    if all(message.role != "assistant" for message in messages):
        raise _bad(where, "field 'messages'", "at least one turn of the assistant", f"only {_roles(messages)}")
    return Dialogue(messages, where)


def parse_alpaca(row: Mapping[str, Any], where: str) -> Demonstration:
    """Reads ``instruction``, ``input`` (which may be empty or missing) and ``output``.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      A demonstration; its prompt is the instruction, an empty line and the input.

    Raises:
      DataError: if a field is missing or of the wrong kind.

    Example:
        >>> row = {"instruction": "Translate.", "input": "chat", "output": "cat"}
        >>> parse_alpaca(row, "alpaca.jsonl:1").prompt
        'Translate.\\n\\nchat'
    """
    prompt = _text(row, "instruction", where)
    if row.get("input") not in (None, ""):
        prompt = f"{prompt}\n\n{_text(row, 'input', where)}"
    return Demonstration(prompt, _text(row, "output", where), where)


def parse_labelled(row: Mapping[str, Any], where: str) -> LabelledResponse:
    """Reads ``prompt``, ``response`` (or ``completion``) and ``label``: true for thumbs up, false for thumbs down.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The labelled response.

    Raises:
      DataError: if a field is missing or of the wrong kind.

    Example:
        >>> parse_labelled({"prompt": "Hi.", "completion": "Hello!", "label": True}, "thumbs.jsonl:1").label
        True
    """
    field = "completion" if "completion" in row and "response" not in row else "response"
    prompt, response, label = _prompt(row, where), _text(row, field, where), _get(row, "label", where)
    if not isinstance(label, bool | np.bool_):
        raise _bad(where, "field 'label'", "true or false", _found(label))
    return LabelledResponse(prompt, response, bool(label), where)


def parse_text(row: Mapping[str, Any], where: str) -> Demonstration | Dialogue:
    """Reads text to continue as it is: ``text``, or else what ``parse_demonstration`` reads.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      A demonstration; of ``text`` one without a prompt, so that every token is a target.

    Raises:
      DataError: if a field is missing or not a non-empty text.

    Example:
        >>> parse_text({"text": "Once upon a time"}, "books.jsonl:1")
        Demonstration(prompt='', response='Once upon a time', where='books.jsonl:1')
    """
    if "text" in row:
        return Demonstration("", _text(row, "text", where), where)
    return parse_demonstration(row, where)


def parse_prompt(row: Mapping[str, Any], where: str) -> PromptRow:
    """Reads ``prompt``, a text or a list of ``{"role": ..., "content": ...}``.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The prompt.

    Raises:
      DataError: if the field is missing or of the wrong kind.

    Example:
        >>> parse_prompt({"prompt": "Say hello.", "source": "me"}, "prompts.jsonl:1").prompt
        'Say hello.'
    """
    return PromptRow(_prompt(row, where), where)


def parse_rated(row: Mapping[str, Any], where: str) -> RatedResponse:
    """Reads ``prompt``, ``response`` and ``ratings`` (a list of numbers, one a rater).

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The rated response.

    Raises:
      DataError: if a field is missing or of the wrong kind.

    Example:
        >>> parse_rated({"prompt": "Hi.", "response": "Hello!", "ratings": [3, 4]}, "rated.jsonl:1").ratings.tolist()
        [3.0, 4.0]
    """
    prompt, response = _text(row, "prompt", where), _text(row, "response", where)
    return RatedResponse(prompt, response, _numbers(_get(row, "ratings", where), "ratings", where), where)


def parse_comparison(row: Mapping[str, Any], where: str) -> Comparison:
    """Reads a pair of responses to one prompt (a text, or a list of messages), in any of three forms.

    - ``prompt``, ``chosen``, ``rejected``: one vote for ``chosen``, which comes first;
    - ``prompt``, ``a``, ``b``, ``preference``: "a", "b" or "tie", or the share of people who prefer A, from 0 to 1;
    - ``prompt``, ``a``, ``b``, ``ratings``: ``{"a": [...], "b": [...]}``, every rater's number; the share of pairs of
      raters in which A has more, ties half, times the smaller number of raters.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The comparison with K = 2.

    Raises:
      DataError: if a field is missing, of the wrong kind, or the row mixes two forms.

    Example:
        >>> row = {"prompt": "Hi.", "a": "Hello!", "b": "Go away.", "preference": 0.75}
        >>> parse_comparison(row, "pairs.jsonl:1").votes.tolist()
        [[0.0, 0.75], [0.25, 0.0]]
    """
    prompt = _prompt(row, where)
    pair, named = {"chosen", "rejected"} & row.keys(), {"a", "b"} & row.keys()
    if pair and named:
        raise _bad(where, f"fields {_names(pair)} and {_names(named)}", "one pair of responses", "both kinds")
    if named:
        responses = (_text(row, "a", where), _text(row, "b", where))
        share, raters = _preference(row, where)
    elif pair:
        responses = (_text(row, "chosen", where), _text(row, "rejected", where))
        share, raters = 1.0, 1
    else:
        raise _bad(where, "fields", "'chosen' and 'rejected', or 'a' and 'b'", _names(row) or "none")
    votes = np.asarray([[0.0, share * raters], [(1.0 - share) * raters, 0.0]], np.float32)
    return Comparison(prompt, responses, votes, where)


def _preference(row: Mapping[str, Any], where: str) -> tuple[float, int]:
    """The share of votes for A, and how many votes there are."""
    if "preference" in row and "ratings" in row:
        raise _bad(where, "fields 'preference' and 'ratings'", "one of them", "both")
    if "ratings" in row:
        ratings = row["ratings"]
        if not isinstance(ratings, Mapping) or not {"a", "b"} <= ratings.keys():
            raise _bad(where, "field 'ratings'", 'an object {"a": [numbers], "b": [numbers]}', _found(ratings))
        a, b = (_numbers(ratings[key], f"ratings.{key}", where) for key in ("a", "b"))
        wins = np.sign(a[:, None] - b[None, :])
        return float(0.5 + 0.5 * wins.mean()), min(len(a), len(b))
    if "preference" not in row:
        raise _bad(where, "field 'preference'", "'preference' or 'ratings' beside 'a' and 'b'", f"only {_names(row)}")
    value = row["preference"]
    words = {"a": 1.0, "b": 0.0, "tie": 0.5}
    if isinstance(value, str) and value in words:
        return words[value], 1
    if not _is_number(value) or not 0 <= value <= 1:
        raise _bad(where, "field 'preference'", "'a', 'b', 'tie' or a number from 0 to 1", _found(value))
    return float(value), 1


def _get(row: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in row:
        raise _bad(where, f"field '{field}'", "it to be there", f"only {_names(row)}" if row else "no fields")
    return row[field]


def _prompt(row: Mapping[str, Any], where: str) -> Prompt:
    if not isinstance(_get(row, "prompt", where), list | tuple):
        return _text(row, "prompt", where)
    messages = _messages(row["prompt"], "prompt", where)
    if messages[-1].role != "user":
        raise _bad(where, "field 'prompt'", "the last turn to be the user's", _roles(messages))
    return messages


def _messages(value: Any, field: str, where: str) -> Chat:
    if not isinstance(value, list | tuple) or not value:
        raise _bad(where, f"field '{field}'", 'a list of {"role": ..., "content": ...}', _found(value))
    messages = []
    for index, turn in enumerate(value):
        name = f"{field}[{index}]"
        if not isinstance(turn, Mapping) or not {"role", "content"} <= turn.keys():
            raise _bad(where, f"field '{name}'", '{"role": ..., "content": ...}', _found(turn))
        if turn["role"] not in ROLES:
            raise _bad(where, f"field '{name}.role'", f"one of {_names(ROLES)}", _found(turn["role"]))
        messages.append(Message(turn["role"], _as_text(turn["content"], f"{name}.content", where)))
    return tuple(messages)


def _roles(messages: Chat) -> str:
    return ", ".join(message.role for message in messages)


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    return _as_text(_get(row, field, where), field, where)


def _as_text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(where, f"field '{field}'", "non-empty text", _found(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _bad(
            where, f"field '{field}'", "text", f"half a character at {error.start} (an unpaired \\u escape)"
        ) from error
    return value


def _numbers(value: Any, field: str, where: str) -> np.ndarray:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(_is_number, value)):
        raise _bad(where, f"field '{field}'", "a non-empty list of finite numbers", _found(value))
    return np.asarray(value, np.float32)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(fields: Any) -> str:
    return ", ".join(f"'{field}'" for field in sorted(map(str, fields)))


def _found(value: Any) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 60 else shown[:57] + '...'} ({type(value).__name__})"


def _bad(where: str, what: str, expected: str, found: str) -> DataError:
    return DataError(f"{where}: {what}: expected {expected}, found {found}; fix the row or pass --on-bad-row skip")
