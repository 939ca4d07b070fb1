"""Rows as published data sets have them, to our row types; ``layouts`` knows which function a row is for.

A function is given only rows that have its fields, and like those of ``rows`` it names the field of a bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Message,
    _bad,
    _found,
    _is_number,
    _text,
    parse_comparison,
    parse_labelled,
)
from rlhf_jax.data.turns import answers, messages, records, spoken

Row = Mapping[str, Any]


def tldr(row: Row, where: str) -> Comparison:
    """Reads a comparison of openai/summarize_from_feedback: ``info``, two ``summaries``, and the ``choice`` of one.

    The prompt is laid out as Stiennon et al. 2020 put it before the model: subreddit, title and post; of news the
    article alone.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The comparison, one vote for the summary that was chosen.

    Raises:
      DataError: if a field is bad.

    Source: Stiennon et al. 2020, appendix B (arXiv:2009.01325).
    """
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


def shp(row: Row, where: str) -> Comparison:
    """Reads a row of SHP: a post's ``history``, two comments, and ``labels``, 1 where the first is preferred.

    Args:
      row: the fields; ``score_A`` and ``score_B`` may be missing.
      where: what to call the row in an error.

    Returns:
      The comparison, one vote for the preferred comment, half a vote each where the scores are even.

    Raises:
      DataError: if a field is bad, or the scores say the opposite of the label.

    Source: Ethayarajh et al. 2022 (arXiv:2110.08420).
    """
    first = row["labels"]
    if first not in (0, 1):
        raise _bad(where, "field 'labels'", "1 where A is preferred, or 0", _found(first))
    asked, *texts = (_text(row, name, where) for name in ("history", "human_ref_A", "human_ref_B"))
    scores = (row.get("score_A"), row.get("score_B")) if first else (row.get("score_B"), row.get("score_A"))
    share = _share(scores, "fields 'score_A' and 'score_B'", where)
    return Comparison(asked, tuple(texts), _votes(share if first else 1 - share), where)


def pair(row: Row, where: str) -> Comparison:
    r"""Reads ``chosen`` and ``rejected``: texts after a ``prompt``, or dialogues, as one text or as messages.

    Args:
      row: the fields; ``prompt``, ``score_chosen`` and ``score_rejected`` may be missing.
      where: what to call the row in an error.

    Returns:
      The comparison, one vote for ``chosen``, half a vote each where the scores are even. Of dialogues the prompt is
      the turns that both share.

    Raises:
      DataError: if a field is bad, or the scores say that the other one is better.

    Example:
        >>> row = {"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi.\n\nAssistant: No."}
        >>> pair(row, "hh.jsonl:1").prompt
        (Message(role='user', content='Hi.'),)

    Source: Bai et al. 2022 (arXiv:2204.05862); Tunstall et al. 2023 (arXiv:2310.16944).
    """
    scores = (row.get("score_chosen"), row.get("score_rejected"))
    votes = _votes(_share(scores, "fields 'score_chosen' and 'score_rejected'", where))
    chosen, rejected, asked = row["chosen"], row["rejected"], row.get("prompt")
    if asked is not None and isinstance(chosen, str):
        return parse_comparison(row, where)._replace(votes=votes)
    read = spoken if isinstance(chosen, str) else messages
    turns = [read(value, field, where) for field, value in (("chosen", chosen), ("rejected", rejected))]
    if asked is not None and all(each[0].role == "assistant" for each in turns):  # without the prompt's turns
        before = (Message("user", asked),) if isinstance(asked, str) else messages(asked, "prompt", where)
        turns = [before + each for each in turns]
    shared, responses = answers(turns[0], turns[1], where)
    return Comparison(shared, responses, votes, where)


def dialogue(field: str) -> Callable[[Row, str], Dialogue]:
    """Makes a function that reads a chat from a field, with any of the names that data sets give the roles.

    Args:
      field: such as ``conversations``.

    Returns:
      A function of a row and where it stands, which raises ``DataError`` for a chat that is bad or without answers.

    Example:
        >>> row = {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello!"}]}
        >>> dialogue("conversations")(row, "chats.jsonl:1").messages[1].role
        'assistant'
    """

    def parse(row: Row, where: str) -> Dialogue:
        turns = messages(row[field], field, where)
        if not any(turn.role == "assistant" for turn in turns):
            raise _bad(where, f"field '{field}'", "a turn of the assistant", f"none in {len(turns)} turns")
        return Dialogue(turns, where)

    return parse


def completed(row: Row, where: str) -> Demonstration:
    """Reads ``prompt`` and ``completion``, each a text or messages.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The demonstration.

    Raises:
      DataError: if a field is bad.
    """
    # What is asked of the two fields is the same.
    found = labelled({**row, "label": True}, where)
    return Demonstration(found.prompt, found.response, where)


def labelled(row: Row, where: str) -> LabelledResponse:
    """Reads ``label`` and what it is of: like ``parse_labelled``, but the completion may also be a list of one message.

    Args:
      row: the fields.
      where: what to call the row in an error.

    Returns:
      The labelled response.

    Raises:
      DataError: if a field is bad.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306).
    """
    said = row.get("completion")
    if isinstance(said, str) or said is None:
        return parse_labelled(row, where)
    turns = messages(said, "completion", where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise _bad(where, "field 'completion'", "one turn, the assistant's", _found(said))
    asked = row["prompt"]
    chat = [Message("user", asked)._asdict()] if isinstance(asked, str) else asked
    return parse_labelled({**row, "prompt": chat, "completion": turns[0].content}, where)


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
