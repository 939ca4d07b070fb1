"""Chats as other people's data sets write them: lists of messages, or one text with ``Human:`` and ``Assistant:``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.rows import Chat, Message, Prompt, _bad, _found

# What data sets call the three roles.
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def spoken(text: Any, field: str, where: str) -> Chat:
    r"""Reads a dialogue that is one text, every turn after a blank line and ``Human:`` or ``Assistant:``.

    Args:
      text: the dialogue.
      field: what the row calls it.
      where: what to call the row in an error.

    Returns:
      Its turns, without the white space around them.

    Raises:
      DataError: if it is not such a text, or a turn is empty.

    Example:
        >>> spoken("\n\nHuman: Hi.\n\nAssistant: Hello!", "chosen", "pairs.jsonl:1")
        (Message(role='user', content='Hi.'), Message(role='assistant', content='Hello!'))
    """
    cut = _TURN.split(text) if isinstance(text, str) else []
    if len(cut) < 3 or cut[0].strip():
        raise _bad(where, f"field '{field}'", "a dialogue that begins with 'Human:' or 'Assistant:'", _found(text))
    return tuple(
        _message(_SPEAKERS[speaker], said, f"field '{field}', turn {number}", where)
        for number, (speaker, said) in enumerate(zip(cut[1::2], cut[2::2], strict=True), start=1)
    )


def messages(value: Any, field: str, where: str) -> Chat:
    """Reads a list of messages, ``{"role": ..., "content": ...}`` or ``{"from": ..., "value": ...}``.

    Args:
      value: the list, or what some readers make of it: an object with a list of roles and a list of contents.
      field: what the row calls it.
      where: what to call the row in an error.

    Returns:
      The turns; ``human`` is ``user``, ``gpt`` is ``assistant``, and an empty system message is left out.

    Raises:
      DataError: if it is not such a list, or a turn has another role or no text.

    Example:
        >>> messages([{"from": "human", "value": "Hi."}], "conversations", "chats.jsonl:1")
        (Message(role='user', content='Hi.'),)
    """
    turns = records(value)
    if not turns:
        raise _bad(where, f"field '{field}'", "a non-empty list of messages", _found(value))
    found = []
    for number, turn in enumerate(turns, start=1):
        what = f"field '{field}', turn {number}"
        keys = ("from", "value") if isinstance(turn, Mapping) and turn.get("from") is not None else ("role", "content")
        if not isinstance(turn, Mapping) or not set(keys) <= turn.keys():
            raise _bad(where, what, "'role' and 'content', or 'from' and 'value'", _found(turn))
        role, content = (turn[key] for key in keys)
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise _bad(where, what, f"a role of {', '.join(map(repr, _ROLES))}", _found(role))
        if _ROLES[role.lower()] != "system" or content:
            found.append(_message(_ROLES[role.lower()], content, what, where))
    return tuple(found)


def records(value: Any) -> list[Any]:
    """A list of objects, also where it comes as an object of equally long lists; empty for anything else.

    Example:
        >>> records({"text": ["one", "two"], "note": [None, "short"]})
        [{'text': 'one', 'note': None}, {'text': 'two', 'note': 'short'}]
    """
    if isinstance(value, Mapping):
        columns = list(value.values())
        if not all(isinstance(c, Sequence) and not isinstance(c, str) and len(c) == len(columns[0]) for c in columns):
            return []
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def answers(chosen: Chat, rejected: Chat, where: str) -> tuple[Chat, tuple[str, str]]:
    r"""Cuts two dialogues into the turns they share, which are the prompt, and the two responses.

    Usually they share all but the last turn. Where they part earlier, a response is the whole rest, the turns after its
    first one marked as in ``text_of``.

    Args:
      chosen: the dialogue that people prefer, field ``chosen`` of the row.
      rejected: the other one, field ``rejected``.
      where: what to call the row in an error.

    Returns:
      The prompt, and the chosen and the rejected response.

    Raises:
      DataError: if one does not end with the assistant, or they share nothing before an answer of the assistant.

    Example:
        >>> hi, no = Message("user", "Hi."), Message("assistant", "No.")
        >>> answers((hi, Message("assistant", "Hello!")), (hi, no), "pairs.jsonl:1")
        ((Message(role='user', content='Hi.'),), ('Hello!', 'No.'))
    """
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or turns[-1].role != "assistant":
            last = f"the {turns[-1].role}'s" if turns else "none"
            raise _bad(where, f"field '{field}'", "the last turn to be the assistant's", last)
    shortest = min(len(chosen), len(rejected))
    shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    # Both responses have to be something, and to begin with the assistant.
    starts = (i for i in range(min(shared, shortest - 1), 0, -1) if chosen[i].role == rejected[i].role == "assistant")
    start = next(starts, 0)
    if not start:
        found = f"{text_of(chosen[:1])!r} and {text_of(rejected[:1])!r}"
        raise _bad(where, "fields 'chosen' and 'rejected'", "the same turns before the assistant's answer", found)
    return chosen[:start], (_rest(chosen[start:]), _rest(rejected[start:]))


def text_of(prompt: Prompt) -> str:
    r"""A prompt as one text to read: the text itself, or the turns after ``Human:`` and ``Assistant:``.

    Example:
        >>> text_of((Message("user", "Hi."), Message("assistant", "Hello!"), Message("user", "Bye.")))
        'Human: Hi.\n\nAssistant: Hello!\n\nHuman: Bye.'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{_NAMES[turn.role]}: {turn.content}" for turn in prompt)


def _rest(turns: Chat) -> str:
    return "\n\n".join([turns[0].content, *(text_of((turn,)) for turn in turns[1:])])


def _message(role: str, content: Any, what: str, where: str) -> Message:
    if not isinstance(content, str) or not content.strip():
        raise _bad(where, what, "non-empty text", _found(content))
    return Message(role, content.strip())
