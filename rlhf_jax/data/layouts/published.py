"""Rows of published comparisons, read as our ``Comparison``; ``table`` knows which function a row is for.

A function is given only rows that have its fields. Like those of ``parse`` it names the bad field of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, is_number, shown, text_of
from rlhf_jax.data.layouts.pairs import pair_votes, parse_comparison
from rlhf_jax.data.layouts.parse import asked_in_alpaca
from rlhf_jax.data.layouts.turns import SYSTEM, after_system, answers, is_spoken, messages, prompt_of, records, spoken
from rlhf_jax.data.rows import Chat, Comparison, Message


def tldr(row: Row, where: str) -> Comparison:
    """Read a comparison of openai/summarize_from_feedback: ``info``, two ``summaries``, and the ``choice`` of one.

    The prompt is laid out as Stiennon et al. 2020 put it before the model: subreddit, title and post. Where the text is
    news, the prompt is the article alone.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The comparison, one vote for the summary that was chosen.

    Raises:
        DataError: if a field is bad.

    Source: Stiennon et al. 2020, appendix B (arXiv:2009.01325).
    """
    info, both, choice = row["info"], records(row["summaries"]), row["choice"]
    if not isinstance(info, Mapping):
        raise bad_row(where, "field 'info'", "an object with the post", shown(info))
    if len(both) != 2 or not all(isinstance(one, Mapping) for one in both):
        raise bad_row(where, "field 'summaries'", "two objects with 'text'", shown(row["summaries"]))
    if choice not in (0, 1):
        raise bad_row(where, "field 'choice'", "0 or 1", shown(choice))
    if info.get("article"):  # news, of which the data set has a part
        asked = f"{text_of(info, 'article', where).strip()}\n\nTL;DR:"
    else:
        names = ("subreddit", "title", "post")
        subreddit, title, post = (text_of(info, name, where).strip() for name in names)
        asked = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
    texts = tuple(text_of(one, "text", where).strip() for one in both)
    return Comparison(asked, texts, pair_votes(1.0 - choice), where)


def shp(row: Row, where: str) -> Comparison:
    """Read a row of SHP: a post's ``history``, two comments, and ``labels``, 1 where the first is preferred.

    Args:
        row: the fields; ``score_A`` and ``score_B`` may be missing.
        where: where the row stands.

    Returns:
        The comparison, one vote for the preferred comment, half a vote each where the scores are even.

    Raises:
        DataError: if a field is bad, or the scores say the opposite of the label.

    Source: Ethayarajh et al. 2022 (arXiv:2110.08420).
    """
    first = row["labels"]
    if first not in (0, 1):
        raise bad_row(where, "field 'labels'", "1 where A is preferred, or 0", shown(first))
    asked, *texts = (text_of(row, name, where) for name in ("history", "human_ref_A", "human_ref_B"))
    scores = (row.get("score_A"), row.get("score_B")) if first else (row.get("score_B"), row.get("score_A"))
    share = _share(scores, "fields 'score_A' and 'score_B'", where)
    return Comparison(asked, tuple(texts), pair_votes(share if first else 1 - share), where)


def pair(row: Row, where: str) -> Comparison:
    r"""Read ``chosen`` and ``rejected``: texts after a ``prompt``, or dialogues, as one text or as messages.

    Args:
        row: the fields; ``prompt``, ``score_chosen`` and ``score_rejected`` may be missing.
        where: where the row stands.

    Returns:
        The comparison, one vote for ``chosen``, half a vote each where the scores are even or both are the same. The
        prompt of two dialogues is the turns that they share.

    Raises:
        DataError: if a field is bad, or the scores say that the other one is better.

    Example:
        >>> row = {"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi.\n\nAssistant: No."}
        >>> pair(row, "hh.jsonl:1").prompt
        (Message(role='user', content='Hi.'),)

    Source: Bai et al. 2022 (arXiv:2204.05862); Tunstall et al. 2023 (arXiv:2310.16944).
    """
    scores = (row.get("score_chosen"), row.get("score_rejected"))
    share = _share(scores, "fields 'score_chosen' and 'score_rejected'", where)
    chosen, rejected, asked = row["chosen"], row["rejected"], row.get("prompt")
    votes = pair_votes(0.5 if chosen == rejected else share)
    whole = is_spoken(chosen) and is_spoken(rejected)
    if asked is not None and not whole and (isinstance(chosen, str) or isinstance(rejected, str)):
        found = parse_comparison(row, where)
        # They may be written to be joined to the prompt as they are; the tokenizer joins with a space itself.
        return found._replace(responses=tuple(text.removeprefix(" ") for text in found.responses), votes=votes)
    read = spoken if isinstance(chosen, str) else messages
    turns = [
        read([value] if isinstance(value, Mapping) and {"role", "from"} & value.keys() else value, field, where)
        for field, value in (("chosen", chosen), ("rejected", rejected))
    ]
    if asked is not None:
        turns = [_joined(asked, each, field, where) for each, field in zip(turns, ("chosen", "rejected"), strict=True)]
    shared, responses = answers(turns[0], turns[1], where)
    return Comparison(after_system(shared, row, where), responses, votes, where, chosen_first=True)


def _joined(asked: Any, turns: Chat, field: str, where: str) -> Chat:
    """Join what ``prompt`` asks and a dialogue, which may repeat it, or only its end."""
    # A text may be a dialogue too.
    read = prompt_of({"prompt": asked}, where) if isinstance(asked, str) else messages(asked, "prompt", where)
    before = (Message("user", read),) if isinstance(read, str) else read
    if turns[0].role == "assistant" or all(turn.role == "system" for turn in before):
        return before + turns
    if isinstance(read, str) and any(turn.role == "user" and turn.content.strip() == read.strip() for turn in turns):
        return turns
    for shared in range(min(len(before), len(turns)), 0, -1):
        if before[-shared:] == turns[:shared]:
            return before + turns[shared:]
    found = f"{shown(before[-1].content)} and {shown(turns[0].content)}"
    raise bad_row(where, f"fields 'prompt' and '{field}'", "the same turns before the answer", found)


def asked_pair(row: Row, where: str) -> Comparison:
    """Read ``chosen`` and ``rejected`` after Alpaca's fields, or after ``question`` or a chat in ``conversations``.

    Args:
        row: the fields; ``system`` may stand beside them.
        where: where the row stands.

    Returns:
        The comparison, as ``pair`` reads it after a ``prompt``.

    Raises:
        DataError: if a field is bad.

    Example:
        >>> row = {"system": "Be brief.", "question": "One?", "chosen": "Un.", "rejected": "One."}
        >>> asked_pair(row, "orca.jsonl:1").prompt[0]
        Message(role='system', content='Be brief.')
    """
    rest = {
        name: value for name, value in row.items() if name in ("chosen", "rejected", "score_chosen", "score_rejected")
    }
    if "instruction" in row:
        asked = asked_in_alpaca(row, where)
        given: Any = asked if isinstance(asked, str) else [turn._asdict() for turn in asked]
        return pair({**rest, "prompt": given}, where)
    field = "question" if "question" in row else "conversations" if "conversations" in row else "messages"
    system = {name: row[name] for name in SYSTEM if name in row}
    return pair({**rest, **system, "prompt": row[field]}, where)


def _share(scores: tuple[Any, Any], what: str, where: str) -> float:
    """The chosen response's share of one vote: all of it, or half where the scores of (chosen, rejected) are even."""
    if None in scores:
        return 1.0
    if not all(map(is_number, scores)):
        raise bad_row(where, what, "finite numbers", shown(scores))
    if scores[0] < scores[1]:
        raise bad_row(where, what, "the preferred response's to be no lower", f"{scores[0]} below {scores[1]}")
    return 0.5 if scores[0] == scores[1] else 1.0
