"""Chats as other people's data sets write them: lists of messages, or one text with ``Human:`` and ``Assistant:``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, names, shown, text_of
from rlhf_jax.data.rows import ROLES, Chat, Message, Prompt, plain_turn, roles

# What data sets call our three roles, in lower case.
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
SYSTEM = ("system", "system_prompt")  # fields beside a prompt or a chat with what the system says first
# What data sets call whether a turn is learned; with a weight of 0, or train false, it is not to be imitated.
_LEARNED = ("weight", "train", "training", "loss")
MESSAGE_FIELDS = ("role", "content", "from", "value", *_LEARNED)  # the fields of a message that are read
_NO_MESSAGE = {
    **dict.fromkeys(
        ("tool_calls", "function_call", "tool_call_id"),
        "calls of tools are not trained here; write what is to be learned as text, or leave out the row",
    ),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking"),
        "write it into the content as the model's chat template does, such as <think>...</think>, or remove the field",
    ),
    **dict.fromkeys(
        ("images", "image", "videos", "audio"), "the models here read text alone, so leave out the rows that have it"
    ),
}
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):")
_OPENED = re.compile(r"\A(\s*Human:.*)\r?\n\r?\nAssistant:\s*\Z", re.DOTALL)


def spoken(text: Any, field: str, where: str) -> Chat:
    r"""Read a dialogue that is one text, every turn after a blank line and ``Human:`` or ``Assistant:``.

    Args:
        text: the dialogue.
        field: what the row calls it.
        where: where the row stands.

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
        raise bad_row(where, f"field '{field}'", "a dialogue that begins with 'Human:' or 'Assistant:'", shown(text))
    return tuple(
        Message(_SPEAKERS[speaker], checked_text(said.strip(), f"{field}[{number}]", where))
        for number, (speaker, said) in enumerate(zip(cut[1::2], cut[2::2], strict=True))
    )


def is_spoken(text: Any) -> bool:
    r"""Whether this is a dialogue as one text, in which somebody asks and the assistant answers.

    Example:
        >>> is_spoken("Human: Hi.\n\nAssistant: Hello!"), is_spoken("Human: a word of Latin origin.")
        (True, False)
    """
    cut = _TURN.split(text) if isinstance(text, str) else []
    return len(cut) >= 5 and not cut[0].strip() and cut[1] == "Human" and "Assistant" in cut[3::2]


def messages(value: Any, field: str, where: str) -> Chat:
    """Read a list of messages, ``{"role": ..., "content": ...}`` or ``{"from": ..., "value": ...}``.

    Args:
        value: the list, or what some readers make of it: an object with a list of roles and a list of contents.
        field: what the row calls it.
        where: where the row stands.

    Returns:
        The turns; ``human`` is ``user``, ``gpt`` is ``assistant``, and an empty system message is left out.

    Raises:
        DataError: if it is not such a list, or a turn has another role or no text.

    Example:
        >>> messages([{"from": "human", "value": "Hi."}], "conversations", "chats.jsonl:1")
        (Message(role='user', content='Hi.'),)
    """
    return weighed(value, field, where)[0]


def weighed(value: Any, field: str, where: str) -> tuple[Chat, tuple[int, ...]]:
    """Read a list of messages, and which turns of the assistant in it are not to be imitated.

    Args:
        value: as for ``messages``.
        field: what the row calls it.
        where: where the row stands.

    Returns:
        The turns, and the places among them of the assistant's that have a ``weight`` of 0, or are false in ``train``,
        ``training`` or ``loss``.

    Raises:
        DataError: as for ``messages``, and for a weight between.

    Example:
        >>> turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "What?", "weight": 0}]
        >>> weighed(turns, "messages", "chats.jsonl:1")[1]
        (1,)
    """
    turns = [_message(turn, f"{field}[{number}]", where) for number, turn in enumerate(records(value))]
    said = [(message, learned) for message, learned in turns if message is not None]
    if not said:
        raise bad_row(where, f"field '{field}'", 'a list of {"role": ..., "content": ...}', shown(value))
    unlearned = (i for i, (message, learned) in enumerate(said) if message.role == "assistant" and not learned)
    return tuple(message for message, _ in said), tuple(unlearned)


def _message(turn: Any, name: str, where: str) -> tuple[Message | None, bool]:
    """Read a turn into our names of fields and roles, None for a system message that says nothing; is it learned?"""
    theirs = isinstance(turn, Mapping) and turn.get("from") is not None
    role, content = ("from", "value") if theirs else ("role", "content")
    for field, advice in _NO_MESSAGE.items():
        if isinstance(turn, Mapping) and not is_empty(turn.get(field)):
            raise bad_row(where, f"field '{name}.{field}'", "none", f"{shown(turn[field])}: {advice}")
    if not isinstance(turn, Mapping) or not {role, content} <= turn.keys():
        raise bad_row(where, f"field '{name}'", '{"role": ..., "content": ...}', shown(turn))
    who, text = turn[role], turn[content]
    ours = _ROLES.get(who.lower()) if isinstance(who, str) else None
    if ours is None:
        raise bad_row(where, f"field '{name}.{role}'", f"one of {names(ROLES)}", shown(who))
    learned = True
    for field in _LEARNED:
        weight = turn.get(field)
        if weight not in (None, 0, 1):
            raise bad_row(where, f"field '{name}.{field}'", "0 or 1", shown(weight))
        learned = learned and weight in (None, 1)
    if ours == "system" and (text is None or text == ""):
        return None, learned
    return Message(ours, checked_text(_parts(text, f"{name}.{content}", where), f"{name}.{content}", where)), learned


def _parts(content: Any, name: str, where: str) -> Any:
    """Join the parts of a message, ``{"type": "text", "text": ...}``; what is not a list stays as it is."""
    if not isinstance(content, list | tuple) or not all(isinstance(part, Mapping) for part in content):
        return content
    for number, part in enumerate(content):
        kind = part.get("type", "text")
        if kind != "text":
            found = f"{shown(kind)}: the models here read text alone, so leave out the rows that have it"
            raise bad_row(where, f"field '{name}[{number}].type'", "'text'", found)
    return "".join(checked_text(part.get("text"), f"{name}[{i}].text", where) for i, part in enumerate(content))


def is_empty(value: Any) -> bool:
    """Whether a field says nothing: null, no text, an empty list or object, also written as text.

    Example:
        >>> is_empty(None), is_empty(" "), is_empty([]), is_empty("[]"), is_empty(0)
        (True, True, True, True, False)
    """
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null")
    return value is None or (isinstance(value, list | tuple | Mapping) and not value)


def after_system(prompt: Prompt, row: Row, where: str) -> Prompt:
    """Put what a row says in ``system`` before its prompt or chat.

    Args:
        prompt: a text, or the turns.
        row: the fields; ``system`` or ``system_prompt`` may be missing or empty.
        where: where the row stands.

    Returns:
        The prompt as it is, or a chat that begins with the system's turn.

    Raises:
        DataError: if the system says something else in the chat, or in the other field.

    Example:
        >>> after_system("Hi.", {"system": "Be brief."}, "a.jsonl:1")
        (Message(role='system', content='Be brief.'), Message(role='user', content='Hi.'))
    """
    if all(is_empty(row.get(field)) for field in SYSTEM):
        return prompt
    return chat_after_system((Message("user", prompt),) if isinstance(prompt, str) else prompt, row, where)


def chat_after_system(turns: Chat, row: Row, where: str) -> Chat:
    """Put what a row says in ``system`` before its chat, as ``after_system`` does.

    Args:
        turns: the chat.
        row: the fields.
        where: where the row stands.

    Returns:
        The chat.

    Raises:
        DataError: as for ``after_system``.
    """
    for field in SYSTEM:
        if is_empty(row.get(field)):
            continue
        text = checked_text(row[field], field, where)
        first = turns[0].content if turns and turns[0].role == "system" else None
        if first is None:
            turns = (Message("system", text), *turns)
        elif first.strip() != text.strip():
            expected = "what the system says in the chat, or nothing"
            raise bad_row(where, f"field '{field}'", expected, f"{shown(text)}, and there {shown(first)}")
    return turns


def prompt_of(row: Row, where: str) -> Prompt:
    r"""Read ``prompt``, a text or the turns so far, which may also be a dialogue that ends by opening an answer.

    What the system says, in ``system`` or ``system_prompt``, becomes the first turn.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The prompt.

    Raises:
        DataError: if the field is missing, is neither a text nor a list of turns, or its last turn is not the user's.

    Example:
        >>> prompt_of({"prompt": "\n\nHuman: Hi.\n\nAssistant:"}, "prompts.jsonl:1")
        (Message(role='user', content='Hi.'),)
    """
    given = row.get("prompt")
    if not isinstance(given, list | tuple | Mapping):
        text = text_of(row, "prompt", where)
        opened = _OPENED.match(text)
        return after_system(spoken(opened[1], "prompt", where) if opened else text, row, where)
    turns = messages(given, "prompt", where)
    if turns[-1].role != "user":
        raise bad_row(where, "field 'prompt'", "the last turn to be the user's", roles(turns))
    return after_system(turns, row, where)


def records(value: Any) -> list[Any]:
    """Take a list of objects, which may come as an object of equally long lists; empty for anything else.

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
    r"""Cut two dialogues into the turns they share, which are the prompt, and the two responses.

    Usually they share all but the last turn. Where they part earlier, a response is everything after the shared turns,
    and its turns after the first are marked as hh-rlhf marks them.

    Args:
        chosen: the dialogue that people prefer, field ``chosen`` of the row.
        rejected: the other one, field ``rejected``.
        where: where the row stands.

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
            raise bad_row(where, f"field '{field}'", "the last turn to be the assistant's", last)
    shortest = min(len(chosen), len(rejected))
    shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    # Both responses have to be something, and to begin with the assistant.
    starts = (i for i in range(min(shared, shortest - 1), 0, -1) if chosen[i].role == rejected[i].role == "assistant")
    start = next(starts, 0)
    if not start:
        found = f"{chosen[0].content!r} and {rejected[0].content!r}"
        raise bad_row(where, "fields 'chosen' and 'rejected'", "the same turns before the assistant's answer", found)
    return chosen[:start], (_rest(chosen[start:]), _rest(rejected[start:]))


def _rest(turns: Chat) -> str:
    return turns[0].content + "".join(plain_turn(turn) for turn in turns[1:])
