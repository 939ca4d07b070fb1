"""The layouts in which people publish data, recognised by a row's fields: one table from fields to our row types.

It serves rows of any source. ``demonstration``, ``comparison``, ``prompt``, ``labelled``, ``judged`` and ``text`` read
a row for a purpose, whatever its layout: a comparison, for one, also gives a prompt and a demonstration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data import published
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    PromptRow,
    RatedResponse,
    _bad,
    _names,
    parse_alpaca,
    parse_comparison,
    parse_demonstration,
    parse_labelled,
    parse_prompt,
    parse_rated,
    parse_text,
)

Row = Mapping[str, Any]
Parsed = Comparison | Demonstration | Dialogue | LabelledResponse | PromptRow | RatedResponse


class Layout(NamedTuple):
    """What a row of a layout holds."""

    name: str
    columns: tuple[str, ...]  # fields that such a row must have; it may have others
    gives: str  # for messages
    parse: Callable[[Row, str], Parsed]


def recognise(columns: Iterable[str], where: str = "") -> str:
    """Names the layout of a row.

    Args:
      columns: the names of its fields.
      where: what to call the row in an error.

    Returns:
      The name of the first layout of the table whose fields are all there.

    Raises:
      DataError: if no layout fits; it lists the fields and the layouts.

    Example:
        >>> recognise(["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"])
        'SHP'
    """
    return _layout(columns, where).name


def demonstration(row: Row, where: str) -> Demonstration | Dialogue:
    """Reads a response to imitate, or a chat to imitate the assistant of; of a comparison what people prefer.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The demonstration.

    Raises:
      DataError: if no layout fits, the layout has nothing to imitate, or a field is bad.

    Example:
        >>> row = {"history": "Why?", "human_ref_A": "No idea.", "human_ref_B": "Since it rains.", "labels": 0}
        >>> demonstration(row, "shp.jsonl:1").response
        'Since it rains.'
    """
    found = _parse(row, where, parse_demonstration)
    if isinstance(found, Comparison):
        best = int(np.argmax(found.votes.sum(axis=1)))
        return Demonstration(found.prompt, found.responses[best], where)
    if isinstance(found, RatedResponse):
        return Demonstration(found.prompt, found.response, where)
    if isinstance(found, Demonstration | Dialogue):
        return found
    raise _unfit(row, where, "demonstrations")


def comparison(row: Row, where: str) -> Comparison:
    r"""Reads two responses to one prompt and which of them people prefer.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The comparison: one vote, half a vote each where scores are even.

    Raises:
      DataError: if no layout fits, the layout compares nothing, or a field is bad.

    Example:
        >>> row = {"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi.\n\nAssistant: No."}
        >>> comparison(row, "hh.jsonl:1").responses
        ('Hello!', 'No.')
    """
    found = _parse(row, where, parse_comparison)
    if isinstance(found, Comparison):
        return found
    raise _unfit(row, where, "comparisons")


def prompt(row: Row, where: str) -> PromptRow:
    """Reads what a policy is to answer: of a chat, everything before the assistant's last turn.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The prompt.

    Raises:
      DataError: if no layout fits, the layout has no prompt, or a field is bad.

    Example:
        >>> prompt({"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}, "pairs.jsonl:1").prompt
        'Say hello.'
    """
    chats = (row[field] for field in ("chosen", "completion", "messages") if field in row)
    if isinstance(row.get("prompt"), str) and all(isinstance(said, str) for said in chats):
        return parse_prompt(row, where)  # what else the row holds does not matter
    found = _parse(row, where, parse_prompt)
    if isinstance(found, Dialogue):
        last = max(i for i, turn in enumerate(found.messages) if turn.role == "assistant")
        if not last:
            raise _bad(where, "the chat", "a turn before the assistant's answer", "none")
        return PromptRow(found.messages[:last], where)
    if not found.prompt:
        raise _unfit(row, where, "prompts")
    return PromptRow(found.prompt, where)


def labelled(row: Row, where: str) -> LabelledResponse:
    """Reads a response with thumbs up or down.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The labelled response.

    Raises:
      DataError: if no layout fits, the layout has no labels, or a field is bad.

    Example:
        >>> labelled({"prompt": "Hi.", "completion": "Hello!", "label": True}, "kto.jsonl:1").label
        True
    """
    found = _parse(row, where, parse_labelled)
    if isinstance(found, LabelledResponse):
        return found
    raise _unfit(row, where, "labelled responses")


def judged(row: Row, where: str) -> Comparison | RatedResponse | LabelledResponse:
    """Reads what people said of responses, in whichever form: a comparison, ratings or a label.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The comparison, rated response or labelled response.

    Raises:
      DataError: if no layout fits, the layout holds nobody's opinion, or a field is bad.

    Example:
        >>> type(judged({"prompt": "Hi.", "response": "Hello!", "ratings": [3, 4]}, "rated.jsonl:1")).__name__
        'RatedResponse'
    """
    found = _parse(row, where, parse_comparison)
    if isinstance(found, Comparison | RatedResponse | LabelledResponse):
        return found
    raise _unfit(row, where, "comparisons, ratings or labels")


def text(row: Row, where: str) -> Demonstration | Dialogue:
    """Reads text to continue as it is: ``text``, or else what ``demonstration`` reads.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      A demonstration, without a prompt if it is ``text``.

    Raises:
      DataError: as for ``demonstration``.

    Example:
        >>> text({"text": "Once upon a time", "url": "a.b"}, "books.jsonl:1").response
        'Once upon a time'
    """
    return parse_text(row, where) if "text" in row else demonstration(row, where)


def _parse(row: Row, where: str, ours: Callable[[Row, str], Any]) -> Any:
    """The row as its layout reads it; one with a prompt and nothing else we know goes to ``ours``, which complains."""
    layout = _layout(row, where)
    if any(row[column] is None for column in layout.columns):
        # Tables fill the fields that a row does not have with null, where its file holds rows of two layouts.
        there = {key: value for key, value in row.items() if value is not None}
        other = next((x for x in LAYOUTS if x.gives == layout.gives and set(x.columns) <= there.keys()), None)
        if other is not None:
            row, layout = there, other
    return ours(row, where) if layout.name == "prompts" else layout.parse(row, where)


def _layout(columns: Iterable[str], where: str) -> Layout:
    names = set(columns)
    found = next((layout for layout in LAYOUTS if set(layout.columns) <= names), None)
    if found is None:
        start = f"{where}: " if where else ""
        known = "; ".join(f"{layout.name} ({', '.join(layout.columns)})" for layout in LAYOUTS)
        raise DataError(
            f"{start}no layout fits the fields {_names(names) or '(none)'}; rename them to one of those known: {known}"
        )
    return found


def _unfit(row: Row, where: str, wanted: str) -> DataError:
    layout = _layout(row, where)
    return _bad(where, f"fields {_names(row)}", wanted, f"the layout {layout.name}, which gives {layout.gives}")


# The first whose fields are all there is a row's layout, so those with more fields come first.
LAYOUTS = (
    Layout("TL;DR comparisons", ("info", "summaries", "choice"), "comparisons", published.tldr),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), "comparisons", published.shp),
    Layout(
        "UltraFeedback",
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        "comparisons",
        published.pair,
    ),
    Layout("pairs", ("prompt", "chosen", "rejected"), "comparisons", published.pair),
    Layout("hh-rlhf", ("chosen", "rejected"), "comparisons", published.pair),
    Layout("pairs with votes", ("prompt", "a", "b"), "comparisons", parse_comparison),
    Layout("KTO labels", ("prompt", "completion", "label"), "labelled responses", published.labelled),
    Layout("labels", ("prompt", "response", "label"), "labelled responses", published.labelled),
    Layout("ratings", ("prompt", "response", "ratings"), "rated responses", parse_rated),
    Layout("Alpaca", ("instruction", "output"), "demonstrations", parse_alpaca),
    Layout("ShareGPT", ("conversations",), "demonstrations", published.dialogue("conversations")),
    Layout("messages", ("messages",), "demonstrations", published.dialogue("messages")),
    Layout("demonstrations", ("prompt", "response"), "demonstrations", parse_demonstration),
    Layout("completions", ("prompt", "completion"), "demonstrations", published.completed),
    Layout("text", ("text",), "text", parse_text),
    Layout("prompts", ("prompt",), "prompts", parse_prompt),
)
