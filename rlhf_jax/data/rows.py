"""What a row of users' data is once it has been read: the types, and a chat as plain text.

``layouts`` makes these types of rows in any known form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

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
    """A whole chat; every turn of the assistant is to be imitated, but for those that the row takes out."""

    messages: Chat
    where: str
    unlearned: tuple[int, ...] = ()  # which messages are the assistant's and yet not to be imitated


class Provenance(NamedTuple):
    """Who said it, when, and how sure they were: what stands beside an opinion in its row."""

    rater: str = ""  # empty where the row does not say
    time: float | None = None  # seconds since 1970, UTC
    confidence: float = 1.0  # 0 to 1
    source: str = ""  # person, judge, principle, or any other text
    round: int | None = None  # which one, where opinions are collected in rounds
    golden: float | None = None  # the known answer, as a share for the first response: 1, 0 or 1/2
    both_bad: bool = False  # beside a tie: neither response will do


class LabelledResponse(NamedTuple):
    """A response with thumbs up or down."""

    prompt: Prompt
    response: str
    label: bool
    where: str
    said: Provenance | None = None


class Comparison(NamedTuple):
    """K responses to one prompt and the votes among them."""

    prompt: Prompt
    responses: tuple[str, ...]
    votes: np.ndarray  # float32 [K, K]; [i, j] = votes that prefer i to j, ties counted half
    where: str
    chosen_first: bool = False  # the layout puts what people prefer first, so that the order says nothing of them
    weight: float = 1.0  # what it counts for in the loss beside others: its votes, where several raters gave some
    said: Provenance | None = None


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
    said: Provenance | None = None


ANSWER = "\n\nAssistant:"  # opens the assistant's turn where a chat is written as plain text


def plain_turn(message: Message, first: bool = False) -> str:
    """Write one turn as plain text, the way hh-rlhf does; a turn of the system is its text alone.

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
    """Write a prompt as one text, for people and judges to read.

    Args:
        prompt: a text, or the turns so far.

    Returns:
        The text; for a chat its turns, with the assistant's next one opened.

    Example:
        >>> prompt_text((Message("system", "Be brief."), Message("user", "Hi.")))
        'Be brief.\\n\\nHuman: Hi.\\n\\nAssistant:'
    """
    if isinstance(prompt, str):
        return prompt
    return "".join(plain_turn(message, first=index == 0) for index, message in enumerate(prompt)) + ANSWER


def prompt_field(prompt: Prompt) -> str | list[dict[str, str]]:
    """Write a prompt as a JSON value, so that a file of ours can be read again.

    Args:
        prompt: a text, or the turns so far.

    Returns:
        The text; for a chat its messages, as ``layouts.prompt`` reads them.

    Example:
        >>> prompt_field((Message("user", "Hi."),))
        [{'role': 'user', 'content': 'Hi.'}]
    """
    return prompt if isinstance(prompt, str) else [message._asdict() for message in prompt]


def roles(messages: Sequence[Message]) -> str:
    """List who speaks in a chat, for a complaint.

    Example:
        >>> roles([Message("system", "Be brief."), Message("user", "Hi.")])
        'system, user'
    """
    return ", ".join(message.role for message in messages) or "no messages"


def assistants(messages: Sequence[Message]) -> list[int]:
    """List which messages are the assistant's.

    Example:
        >>> assistants([Message("user", "Hi."), Message("assistant", "Hello!")])
        [1]
    """
    return [index for index, message in enumerate(messages) if message.role == "assistant"]


def texts_of(row: Any) -> list[str]:
    """List all texts of a typed row, those of its prompt or chat and of its responses.

    Args:
        row: one of the types here.

    Returns:
        The texts, in order.

    Example:
        >>> texts_of(Demonstration("Hi.", "Hello!", "a.jsonl:1"))
        ['Hi.', 'Hello!']
    """
    asked: Prompt = row.messages if isinstance(row, Dialogue) else row.prompt
    texts = [asked] if isinstance(asked, str) else [turn.content for turn in asked]
    if isinstance(row, Comparison):
        return [*texts, *row.responses]
    return [*texts, row.response] if isinstance(row, Demonstration | LabelledResponse | RatedResponse) else texts
