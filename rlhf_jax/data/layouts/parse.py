"""Rows in our own forms, validated: what a row must hold for each purpose; ``pairs`` has those that compare responses.

Fields that a function does not know are left alone, so files with more in them need no preparation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_jax.data.layouts.fields import (
    Row,
    bad_row,
    checked_numbers,
    checked_text,
    is_number,
    shown,
    text_of,
    value_of,
)
from rlhf_jax.data.layouts.turns import after_system, chat_after_system, is_empty, messages, prompt_of, weighed
from rlhf_jax.data.rows import (
    Demonstration,
    Dialogue,
    LabelledResponse,
    Message,
    Prompt,
    PromptRow,
    RatedResponse,
    assistants,
    roles,
)


def parse_demonstration(row: Row, where: str) -> Demonstration | Dialogue:
    """Read ``prompt`` and ``response``, a whole chat (``parse_dialogue``) or Alpaca's fields (``parse_alpaca``).

    ``prompt`` is a text, or a list of ``{"role": ..., "content": ...}``. In place of ``response`` there may be
    ``completion``, a text or a list of one message.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The demonstration, or the dialogue where the row has ``messages``.

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
    return Demonstration(*_answered(row, where), where)


def parse_dialogue(row: Row, where: str, *, field: str = "messages", answered: bool = True) -> Dialogue:
    """Read a chat, a list of ``{"role": ..., "content": ...}`` with at least one turn of the assistant.

    A turn of the assistant with a ``weight`` of 0 is not to be imitated. What the system says may stand beside the
    chat, in ``system``.

    Args:
        row: the fields.
        where: where the row stands.
        field: the one that holds the chat; ``turns.messages`` says what a chat may look like.
        answered: whether there has to be a turn of the assistant to imitate.

    Returns:
        The dialogue.

    Raises:
        DataError: if the field is missing or of the wrong kind.

    Example:
        >>> turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
        >>> parse_dialogue({"messages": turns}, "chats.jsonl:1").messages[1].content
        'Hello!'
    """
    turns, unlearned = weighed(value_of(row, field, where), field, where)
    if answered and len(unlearned) == len(assistants(turns)):
        found = f"only {roles(turns)}" + (", of weight 0" if unlearned else "")
        raise bad_row(where, f"field '{field}'", "at least one turn of the assistant", found)
    whole = chat_after_system(turns, row, where)
    more = len(whole) - len(turns)
    return Dialogue(whole, where, tuple(place + more for place in unlearned))


def parse_alpaca(row: Row, where: str) -> Demonstration | Dialogue:
    """Read ``instruction``, ``input`` (which may be empty or missing) and ``output``; also ``system`` and ``history``.

    Args:
        row: the fields. ``history`` is a list of pairs, what the user said and what the assistant answered before.
        where: where the row stands.

    Returns:
        A demonstration; its prompt is the instruction, an empty line and the input. With a history a chat, every
        answer of which is to be imitated.

    Raises:
        DataError: if a field is missing or of the wrong kind.

    Example:
        >>> row = {"instruction": "Translate.", "input": "chat", "output": "cat"}
        >>> parse_alpaca(row, "alpaca.jsonl:1").prompt
        'Translate.\\n\\nchat'
    """
    prompt, output = asked_in_alpaca(row, where), text_of(row, "output", where)
    history = row.get("history")
    if is_empty(history):
        return Demonstration(prompt, output, where)
    turns = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
    return Dialogue((*turns, Message("assistant", output)), where)


def asked_in_alpaca(row: Row, where: str) -> Prompt:
    """Read what ``instruction``, ``input``, ``history`` and ``system`` ask.

    Args:
        row: the fields; all but the first may be missing or empty.
        where: where the row stands.

    Returns:
        The instruction, an empty line and the input; a chat where there is a history or the system says something.

    Raises:
        DataError: if a field is of the wrong kind.

    Example:
        >>> row = {"instruction": "And two?", "history": [["One?", "Un."]]}
        >>> [turn.content for turn in asked_in_alpaca(row, "alpaca.jsonl:1")]
        ['One?', 'Un.', 'And two?']
    """
    asked = text_of(row, "instruction", where)
    given, history = row.get("input"), row.get("history")
    if given is not None and not (isinstance(given, str) and not given.strip()):
        asked = f"{asked}\n\n{text_of(row, 'input', where)}"
    prompt: Prompt = asked
    if not is_empty(history):
        pairs = history if isinstance(history, list | tuple) else [history]
        turns: list[Message] = []
        for number, pair in enumerate(pairs):
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                expected = "[what the user said, what was answered]"
                raise bad_row(where, f"field 'history[{number}]'", expected, shown(pair))
            for who, text in zip(("user", "assistant"), pair, strict=True):
                turns.append(Message(who, checked_text(text, f"history[{number}]", where)))
        prompt = (*turns, Message("user", asked))
    return after_system(prompt, row, where)


def parse_labelled(row: Row, where: str) -> LabelledResponse:
    """Read ``prompt``, ``response`` (or ``completion``) and ``label``: true for thumbs up, false for thumbs down.

    Prompt and response are as in ``parse_demonstration``.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The labelled response.

    Raises:
        DataError: if a field is missing or of the wrong kind.

    Example:
        >>> parse_labelled({"prompt": "Hi.", "completion": "Hello!", "label": True}, "thumbs.jsonl:1").label
        True

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), whose data set has ``completion``.
    """
    prompt, response = _answered(row, where)
    label = value_of(row, "label", where)
    if not isinstance(label, bool | np.bool_):
        raise bad_row(where, "field 'label'", "true or false", shown(label))
    return LabelledResponse(prompt, response, bool(label), where)


def parse_text(row: Row, where: str) -> Demonstration | Dialogue:
    """Read text to continue as it is: ``text``, or else what ``parse_demonstration`` reads.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        A demonstration. What ``text`` holds has no prompt, so every token of it is a target.

    Raises:
        DataError: if a field is missing or not a non-empty text.

    Example:
        >>> parse_text({"text": "Once upon a time"}, "books.jsonl:1")
        Demonstration(prompt='', response='Once upon a time', where='books.jsonl:1')
    """
    if "text" in row:
        return Demonstration("", text_of(row, "text", where), where)
    return parse_demonstration(row, where)


def parse_prompt(row: Row, where: str) -> PromptRow:
    """Read ``prompt``, a text or a list of ``{"role": ..., "content": ...}``.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The prompt.

    Raises:
        DataError: if the field is missing or of the wrong kind.

    Example:
        >>> parse_prompt({"prompt": "Say hello.", "source": "me"}, "prompts.jsonl:1").prompt
        'Say hello.'
    """
    return PromptRow(prompt_of(row, where), where)


def parse_rated(row: Row, where: str) -> RatedResponse:
    """Read ``prompt``, ``response``, and ``ratings`` (a list of numbers, one a rater) or ``rating`` (one rater's).

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The rated response.

    Raises:
        DataError: if a field is missing or of the wrong kind, or both are there.

    Example:
        >>> parse_rated({"prompt": "Hi.", "response": "Hello!", "ratings": [3, 4]}, "rated.jsonl:1").ratings.tolist()
        [3.0, 4.0]
    """
    prompt, response = text_of(row, "prompt", where), text_of(row, "response", where)
    if "ratings" not in row and "rating" in row:
        if not is_number(row["rating"]):
            raise bad_row(where, "field 'rating'", "a finite number, or a list in 'ratings'", shown(row["rating"]))
        return RatedResponse(prompt, response, np.asarray([row["rating"]], np.float32), where)
    if not is_empty(row.get("rating")):
        raise bad_row(where, "fields 'rating' and 'ratings'", "one of them", "both")
    return RatedResponse(prompt, response, checked_numbers(value_of(row, "ratings", where), "ratings", where), where)


def _answered(row: Row, where: str) -> tuple[Prompt, str]:
    """Read a prompt and the one response to it; a response that is a message makes the prompt a chat."""
    field = "completion" if "completion" in row and row.get("response") is None else "response"
    prompt, said = prompt_of(row, where), row.get(field)
    if not is_empty(other := row.get("completion")) and other != said:
        raise bad_row(where, "field 'completion'", "what 'response' says, or nothing", shown(other))
    if not isinstance(said, list | tuple | Mapping):
        text = text_of(row, field, where)
        # Completions are written to be joined to their prompt as they are; the tokenizer joins with a space itself.
        return prompt, text.removeprefix(" ") if field == "completion" else text
    turns = messages(said, field, where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise bad_row(where, f"field '{field}'", "one turn, the assistant's", shown(said))
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt, turns[0].content
