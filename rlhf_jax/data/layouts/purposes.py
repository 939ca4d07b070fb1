"""Rows of any source and any known layout, read for a purpose: the functions that a stage reads its data with.

A row's fields say which layout of ``table`` it has. A comparison also gives a prompt and a demonstration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.layouts.fields import Row, bad_row
from rlhf_jax.data.layouts.meaning import ASKED, check_meaning
from rlhf_jax.data.layouts.pairs import parse_comparison
from rlhf_jax.data.layouts.parse import (
    asked_in_alpaca,
    parse_demonstration,
    parse_labelled,
    parse_prompt,
    parse_text,
)
from rlhf_jax.data.layouts.table import read_row, unfit
from rlhf_jax.data.layouts.turns import SYSTEM, prompt_of
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Prompt,
    PromptRow,
    RatedResponse,
    assistants,
    roles,
    texts_of,
)


def demonstration(row: Row, where: str) -> Demonstration | Dialogue:
    """Read what a policy is to imitate: a response, or the assistant's turns in a chat.

    A row that compares or ranks responses gives the one that people prefer; where the answer is known (``golden``), the
    known one.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The demonstration.

    Raises:
        DataError: if no layout fits, the layout has nothing to imitate, or a field is bad.

    Example:
        >>> row = {"history": "Why?", "human_ref_A": "No idea.", "human_ref_B": "Since it rains.", "labels": 0}
        >>> demonstration(row, "shp.jsonl:1").response
        'Since it rains.'
    """
    found, layout = read_row(row, where, parse_demonstration)
    if isinstance(found, Comparison):
        return Demonstration(found.prompt, _best(found), where)
    if isinstance(found, RatedResponse):
        return Demonstration(found.prompt, found.response, where)
    if isinstance(found, Demonstration | Dialogue):
        return found
    raise unfit(layout, row, where, "demonstrations")


def comparison(row: Row, where: str) -> Comparison:
    r"""Read two responses to one prompt and which of them people prefer.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The comparison with its votes: those that the row counts, or one, which is split in half where scores are even.

    Raises:
        DataError: if no layout fits, the layout compares nothing, or a field is bad.

    Example:
        >>> row = {"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi.\n\nAssistant: No."}
        >>> comparison(row, "hh.jsonl:1").responses
        ('Hello!', 'No.')
    """
    found, layout = read_row(row, where, parse_comparison)
    if isinstance(found, Comparison):
        return found
    raise unfit(layout, row, where, "comparisons")


def prompt(row: Row, where: str) -> PromptRow:
    """Read what a policy is to answer: a chat that ends with the user, or else what precedes the assistant's last turn.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The prompt.

    Raises:
        DataError: if no layout fits, the layout has no prompt, or a field is bad.

    Example:
        >>> prompt({"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}, "pairs.jsonl:1").prompt
        'Say hello.'
    """
    # Which answers the row holds, or whether it holds any, does not matter.
    whole = [row[field] for field in ("chosen", "completion", "messages", "conversations") if field in row]
    if all(isinstance(said, str) for said in whole):
        if isinstance(row.get("prompt"), str | list | tuple):
            return _alone(row, parse_prompt(row, where), ("prompt",))
        if "instruction" in row and "prompt" not in row:
            asked = PromptRow(asked_in_alpaca(row, where), where)
            return _alone(row, asked, ("instruction", "input", "history"))
    found, layout = read_row(row, where, parse_prompt, answered=False)
    if isinstance(found, Dialogue):
        return PromptRow(_to_answer(found), where)
    if not found.prompt:
        raise unfit(layout, row, where, "prompts")
    return PromptRow(found.prompt, where)


def answered(row: Row, where: str) -> Comparison | Demonstration:
    """Read a prompt and what was answered, two responses or one, to be scored; a response may be empty.

    In a chat the answer is the assistant's last turn, and the prompt is everything before it.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The comparison where the row is one; else the response, whatever people said of it.

    Raises:
        DataError: if no layout fits, the layout has no response to a prompt, or a field is bad.

    Example:
        >>> answered({"prompt": "Hi.", "response": "No.", "label": False}, "labels.jsonl:1").response
        'No.'
    """
    said = row.get("response")
    if isinstance(said, str) and not said.strip() and not {"chosen", "rejected", "a", "b"} & row.keys():
        nothing = Demonstration(prompt_of(row, where), said, where)  # a policy may have said nothing
        check_meaning(row, where, ("prompt", "response", *SYSTEM), texts_of(nothing), ASKED)
        return nothing
    found, layout = read_row(row, where, parse_demonstration)
    if isinstance(found, Comparison):
        return found
    if isinstance(found, Dialogue):
        return _last_answer(found)
    if not found.prompt:
        raise unfit(layout, row, where, "a response to a prompt")
    return Demonstration(found.prompt, found.response, where)


def labelled(row: Row, where: str) -> LabelledResponse:
    """Read a response with thumbs up or down.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The labelled response.

    Raises:
        DataError: if no layout fits, the layout has no labels, or a field is bad.

    Example:
        >>> labelled({"prompt": "Hi.", "completion": "Hello!", "label": True}, "kto.jsonl:1").label
        True
    """
    found, layout = read_row(row, where, parse_labelled)
    if isinstance(found, LabelledResponse):
        return found
    raise unfit(layout, row, where, "labelled responses")


def judged(row: Row, where: str) -> Comparison | RatedResponse | LabelledResponse:
    """Read what people said of responses, in whichever form: a comparison, ratings or a label.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The comparison, rated response or labelled response.

    Raises:
        DataError: if no layout fits, the layout holds nobody's opinion, or a field is bad.

    Example:
        >>> type(judged({"prompt": "Hi.", "response": "Hello!", "ratings": [3, 4]}, "rated.jsonl:1")).__name__
        'RatedResponse'
    """
    found, layout = read_row(row, where, parse_comparison)
    if isinstance(found, Comparison | RatedResponse | LabelledResponse):
        return found
    raise unfit(layout, row, where, "comparisons, ratings or labels")


def text(row: Row, where: str) -> Demonstration | Dialogue:
    """Read text to continue as it is: ``text``, or else what ``demonstration`` reads.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        A demonstration, without a prompt if it is ``text``.

    Raises:
        DataError: as for ``demonstration``.

    Example:
        >>> text({"text": "Once upon a time", "url": "a.b"}, "books.jsonl:1").response
        'Once upon a time'
    """
    if "text" not in row:
        return demonstration(row, where)
    check_meaning(row, where, ("text",), (), ())
    return parse_text(row, where)


def preferred_first(pair: Comparison) -> tuple[str, ...]:
    """Order the responses of a comparison: those with more votes come first, even ones stay in their order.

    Example:
        >>> pair = comparison({"prompt": "Hi.", "a": "No.", "b": "Hello!", "preference": "b"}, "pairs.jsonl:1")
        >>> preferred_first(pair)
        ('Hello!', 'No.')
    """
    order = np.argsort(-pair.votes.sum(axis=1), kind="stable")
    return tuple(pair.responses[i] for i in order)


def _best(compared: Comparison) -> str:
    """The response that is preferred, by the known answer where there is one."""
    known = None if compared.said is None else compared.said.golden
    return preferred_first(compared)[0] if known is None else compared.responses[0 if known >= 0.5 else 1]


def _alone(row: Row, asked: PromptRow, reads: Sequence[str]) -> PromptRow:
    """Check that no other field of the row asks something."""
    check_meaning(row, asked.where, (*reads, *SYSTEM), texts_of(asked), ASKED)
    return asked


def _to_answer(chat: Dialogue) -> Prompt:
    """Take the turns that are to be answered: all of them where the user has the last word."""
    if chat.messages[-1].role == "system" and assistants(chat.messages):
        raise bad_row(chat.where, "the chat", "the last turn to be the user's or the assistant's", roles(chat.messages))
    return chat.messages if chat.messages[-1].role == "user" else _last_answer(chat).prompt


def _last_answer(chat: Dialogue) -> Demonstration:
    """Cut a chat into the assistant's last turn and all that was said before it."""
    last = max(assistants(chat.messages), default=0)
    if not last:
        raise bad_row(chat.where, "the chat", "a turn before the assistant's answer", roles(chat.messages))
    return Demonstration(chat.messages[:last], chat.messages[last].content, chat.where)
