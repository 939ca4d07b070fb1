"""Rows in our own forms, validated: what a row must hold for each purpose.

A parse function takes a row (a mapping, as JSON or TFDS gives it) and ``where`` (such as ``"pairs.jsonl:12"``, which
begins every complaint). Fields that it does not know are left alone, so files with more in them need no preparation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_jax.data.fields import Row, bad_row, checked_numbers, is_number, names, shown, text_of, value_of
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Message,
    Prompt,
    PromptRow,
    RatedResponse,
    roles,
)
from rlhf_jax.data.turns import messages, prompt_of


def parse_demonstration(row: Row, where: str) -> Demonstration | Dialogue:
    """Reads ``prompt`` and ``response``, a whole chat (``parse_dialogue``) or Alpaca's fields (``parse_alpaca``).

    ``prompt`` is a text, or a list of ``{"role": ..., "content": ...}``. In place of ``response`` there may be
    ``completion``, a text or a list of one message.

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
    return Demonstration(*_answered(row, where), where)


def parse_dialogue(row: Row, where: str, *, field: str = "messages") -> Dialogue:
    """Reads a chat, a list of ``{"role": ..., "content": ...}`` with at least one turn of the assistant.

    Args:
      row: the fields.
      where: what to call the row in an error.
      field: the one that holds the chat; ``turns.messages`` says what a chat may look like.

    Returns:
      The dialogue.

    Raises:
      DataError: if the field is missing or of the wrong kind.

    Example:
        >>> turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]
        >>> parse_dialogue({"messages": turns}, "chats.jsonl:1").messages[1].content
        'Hello!'
    """
    turns = messages(value_of(row, field, where), field, where)
    if all(turn.role != "assistant" for turn in turns):
        raise bad_row(where, f"field '{field}'", "at least one turn of the assistant", f"only {roles(turns)}")
    return Dialogue(turns, where)


def parse_alpaca(row: Row, where: str) -> Demonstration:
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
    prompt = text_of(row, "instruction", where)
    if row.get("input") not in (None, ""):
        prompt = f"{prompt}\n\n{text_of(row, 'input', where)}"
    return Demonstration(prompt, text_of(row, "output", where), where)


def parse_labelled(row: Row, where: str) -> LabelledResponse:
    """Reads ``prompt``, ``response`` (or ``completion``) and ``label``: true for thumbs up, false for thumbs down.

    Prompt and response are as in ``parse_demonstration``.

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

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), whose data set has ``completion``.
    """
    prompt, response = _answered(row, where)
    label = value_of(row, "label", where)
    if not isinstance(label, bool | np.bool_):
        raise bad_row(where, "field 'label'", "true or false", shown(label))
    return LabelledResponse(prompt, response, bool(label), where)


def parse_text(row: Row, where: str) -> Demonstration | Dialogue:
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
        return Demonstration("", text_of(row, "text", where), where)
    return parse_demonstration(row, where)


def parse_prompt(row: Row, where: str) -> PromptRow:
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
    return PromptRow(prompt_of(row, where), where)


def parse_rated(row: Row, where: str) -> RatedResponse:
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
    prompt, response = text_of(row, "prompt", where), text_of(row, "response", where)
    return RatedResponse(prompt, response, checked_numbers(value_of(row, "ratings", where), "ratings", where), where)


def parse_comparison(row: Row, where: str) -> Comparison:
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
    prompt = prompt_of(row, where)
    pair, named = {"chosen", "rejected"} & row.keys(), {"a", "b"} & row.keys()
    if pair and named:
        raise bad_row(where, f"fields {names(pair)} and {names(named)}", "one pair of responses", "both kinds")
    if named:
        responses = (text_of(row, "a", where), text_of(row, "b", where))
        share, raters = _preference(row, where)
    elif pair:
        responses = (text_of(row, "chosen", where), text_of(row, "rejected", where))
        share, raters = 1.0, 1
    else:
        raise bad_row(where, "fields", "'chosen' and 'rejected', or 'a' and 'b'", names(row) or "none")
    return Comparison(prompt, responses, pair_votes(share, raters), where)


def pair_votes(share: float, raters: int = 1) -> np.ndarray:
    """The votes between two responses.

    Args:
      share: of the raters that prefer the first, from 0 to 1.
      raters: how many votes there are.

    Returns:
      float32 [2, 2], as in ``Comparison``.

    Example:
        >>> pair_votes(0.75, raters=4).tolist()
        [[0.0, 3.0], [1.0, 0.0]]
    """
    return np.asarray([[0.0, share * raters], [(1.0 - share) * raters, 0.0]], np.float32)


def _preference(row: Row, where: str) -> tuple[float, int]:
    """The share of votes for A, and how many votes there are."""
    if "preference" in row and "ratings" in row:
        raise bad_row(where, "fields 'preference' and 'ratings'", "one of them", "both")
    if "ratings" in row:
        ratings = row["ratings"]
        if not isinstance(ratings, Mapping) or not {"a", "b"} <= ratings.keys():
            raise bad_row(where, "field 'ratings'", 'an object {"a": [numbers], "b": [numbers]}', shown(ratings))
        a, b = (checked_numbers(ratings[key], f"ratings.{key}", where) for key in ("a", "b"))
        wins = np.sign(a[:, None] - b[None, :])
        return float(0.5 + 0.5 * wins.mean()), min(len(a), len(b))
    if "preference" not in row:
        raise bad_row(where, "field 'preference'", "'preference' or 'ratings' beside 'a' and 'b'", f"only {names(row)}")
    value = row["preference"]
    words = {"a": 1.0, "b": 0.0, "tie": 0.5}
    if isinstance(value, str) and value in words:
        return words[value], 1
    if not is_number(value) or not 0 <= value <= 1:
        raise bad_row(where, "field 'preference'", "'a', 'b', 'tie' or a number from 0 to 1", shown(value))
    return float(value), 1


def _answered(row: Row, where: str) -> tuple[Prompt, str]:
    """A prompt and the one response to it; a response that is a message makes the prompt a chat."""
    field = "completion" if "completion" in row and "response" not in row else "response"
    prompt, said = prompt_of(row, where), row.get(field)
    if not isinstance(said, list | tuple | Mapping):
        return prompt, text_of(row, field, where)
    turns = messages(said, field, where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise bad_row(where, f"field '{field}'", "one turn, the assistant's", shown(said))
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt, turns[0].content
