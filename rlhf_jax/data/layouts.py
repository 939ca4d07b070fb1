"""The layouts in which people publish data, recognised by a row's fields: one table from fields to our row types.

It serves rows of any source. ``demonstration``, ``comparison``, ``prompt``, ``labelled``, ``judged`` and ``text`` read
a row for a purpose, whatever its layout: a comparison, for one, also gives a prompt and a demonstration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Message,
    Prompt,
    PromptRow,
    RatedResponse,
    _bad,
    _found,
    _is_number,
    _names,
    _text,
    parse_alpaca,
    parse_comparison,
    parse_demonstration,
    parse_prompt,
    parse_rated,
    parse_text,
)
from rlhf_jax.data.turns import answers, messages, records, spoken

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
    if isinstance(row.get("prompt"), str) and not row.keys() & {"chosen", "messages"}:
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
    found = _parse(row, where, _labelled)
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


def _summaries(row: Row, where: str) -> Comparison:
    """TL;DR: the post as Stiennon et al. 2020 put it before the model, two summaries, and which one was chosen."""
    info, both, choice = row["info"], records(row["summaries"]), row["choice"]
    if not isinstance(info, Mapping):
        raise _bad(where, "field 'info'", "an object with the post", _found(info))
    if len(both) != 2 or not all(isinstance(one, Mapping) for one in both):
        raise _bad(where, "field 'summaries'", "two objects with 'text'", _found(row["summaries"]))
    if choice not in (0, 1):
        raise _bad(where, "field 'choice'", "0 or 1", _found(choice))
    if info.get("article"):  # news, of which the data set has a part
        asked = f"{_text(info, 'article', where).strip()}\n\nTL;DR:"
    else:
        names = ("subreddit", "title", "post")
        subreddit, title, post = (_text(info, name, where).strip() for name in names)
        asked = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
    texts = tuple(_text(one, "text", where).strip() for one in both)
    return Comparison(asked, texts, _votes(1.0 - choice), where)


def _shp(row: Row, where: str) -> Comparison:
    first = row["labels"]
    if first not in (0, 1):
        raise _bad(where, "field 'labels'", "1 where A is preferred, or 0", _found(first))
    asked, *texts = (_text(row, name, where) for name in ("history", "human_ref_A", "human_ref_B"))
    scores = (row.get("score_A"), row.get("score_B")) if first else (row.get("score_B"), row.get("score_A"))
    share = _share(scores, "fields 'score_A' and 'score_B'", where)
    return Comparison(asked, tuple(texts), _votes(share if first else 1 - share), where)


def _pair(row: Row, where: str) -> Comparison:
    """``chosen`` and ``rejected``: texts after a ``prompt``, or dialogues, as one text or as messages."""
    chosen, rejected, asked = row["chosen"], row["rejected"], row.get("prompt")
    share = _share((row.get("score_chosen"), row.get("score_rejected")), "fields 'score_chosen', 'score_rejected'", where)
    if isinstance(asked, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return parse_comparison(row, where)._replace(votes=_votes(share))
    if asked is not None and not isinstance(asked, str):
        asked = messages(asked, "prompt", where)
    if asked is not None and isinstance(chosen, str):
        return Comparison(asked, (_text(row, "chosen", where), _text(row, "rejected", where)), _votes(share), where)
    read = spoken if isinstance(chosen, str) else messages
    turns = [read(value, field, where) for field, value in (("chosen", chosen), ("rejected", rejected))]
    if asked is not None and all(each[0].role == "assistant" for each in turns):  # without the prompt's turns
        before = (Message("user", asked),) if isinstance(asked, str) else asked
        turns = [before + each for each in turns]
    shared, responses = answers(*turns, where)
    return Comparison(shared, responses, _votes(share), where)


def _dialogue(field: str) -> Callable[[Row, str], Dialogue]:
    def parse(row: Row, where: str) -> Dialogue:
        turns = messages(row[field], field, where)
        if not any(turn.role == "assistant" for turn in turns):
            raise _bad(where, f"field '{field}'", "a turn of the assistant", f"none in {len(turns)} turns")
        return Dialogue(turns, where)

    return parse


def _completed(row: Row, where: str) -> Demonstration:
    return Demonstration(*_completion(row, "completion", where), where)


def _labelled(row: Row, where: str) -> LabelledResponse:
    label = row.get("label")
    if label not in (0, 1):
        raise _bad(where, "field 'label'", "true for thumbs up or false for thumbs down", _found(label))
    return LabelledResponse(
        *_completion(row, "completion" if "completion" in row else "response", where), bool(label), where
    )


def _completion(row: Row, field: str, where: str) -> tuple[Prompt, str]:
    """A prompt and a response, each a text or a list of messages."""
    asked, answer = row["prompt"], row.get(field)
    asked = _text(row, "prompt", where) if isinstance(asked, str) else messages(asked, "prompt", where)
    if isinstance(answer, str) or answer is None:
        return asked, _text(row, field, where)
    turns = messages(answer, field, where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise _bad(where, f"field '{field}'", "one turn, the assistant's", _found(answer))
    return asked if not isinstance(asked, str) else (Message("user", asked),), turns[0].content


def _share(scores: tuple[Any, Any], what: str, where: str) -> float:
    """The chosen response's share of one vote: all of it, or half where the scores of (chosen, rejected) are even."""
    if None in scores:
        return 1.0
    if not all(map(_is_number, scores)):
        raise _bad(where, what, "finite numbers", _found(scores))
    if scores[0] < scores[1]:
        raise _bad(where, what, "the preferred response's to be no lower", f"{scores[0]} below {scores[1]}")
    return 0.5 if scores[0] == scores[1] else 1.0


def _votes(first: float) -> np.ndarray:
    """One vote, of which the first response has this share."""
    return np.asarray([[0.0, first], [1.0 - first, 0.0]], np.float32)


# The first whose fields are all there is a row's layout, so those with more fields come first.
LAYOUTS = (
    Layout("TL;DR comparisons", ("info", "summaries", "choice"), "comparisons", _summaries),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), "comparisons", _shp),
    Layout(
        "UltraFeedback", ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"), "comparisons", _pair
    ),
    Layout("pairs", ("prompt", "chosen", "rejected"), "comparisons", _pair),
    Layout("hh-rlhf", ("chosen", "rejected"), "comparisons", _pair),
    Layout("pairs with votes", ("prompt", "a", "b"), "comparisons", parse_comparison),
    Layout("KTO labels", ("prompt", "completion", "label"), "labelled responses", _labelled),
    Layout("labels", ("prompt", "response", "label"), "labelled responses", _labelled),
    Layout("ratings", ("prompt", "response", "ratings"), "rated responses", parse_rated),
    Layout("Alpaca", ("instruction", "output"), "demonstrations", parse_alpaca),
    Layout("ShareGPT", ("conversations",), "demonstrations", _dialogue("conversations")),
    Layout("messages", ("messages",), "demonstrations", _dialogue("messages")),
    Layout("demonstrations", ("prompt", "response"), "demonstrations", parse_demonstration),
    Layout("completions", ("prompt", "completion"), "demonstrations", _completed),
    Layout("text", ("text",), "text", parse_text),
    Layout("prompts", ("prompt",), "prompts", parse_prompt),
)
