"""Rows of published comparisons, read as our ``Comparison``; ``table`` knows which function a row is for.

A function is given only rows that have its fields. Like those of ``parse`` it names the bad field of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, is_number, shown, text_of
from rlhf_jax.data.layouts.pairs import pair_votes, parse_comparison
from rlhf_jax.data.layouts.turns import answers, messages, records, spoken
from rlhf_jax.data.rows import Comparison, Message


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
    if asked is not None and (isinstance(chosen, str) or isinstance(rejected, str)):
        found = parse_comparison(row, where)
        # They may be written to be joined to the prompt as they are; the tokenizer joins with a space itself.
        return found._replace(responses=tuple(text.removeprefix(" ") for text in found.responses), votes=votes)
    read = spoken if isinstance(chosen, str) else messages
    turns = [read(value, field, where) for field, value in (("chosen", chosen), ("rejected", rejected))]
    if asked is not None and all(each[0].role == "assistant" for each in turns):  # without the prompt's turns
        before = (Message("user", asked),) if isinstance(asked, str) else messages(asked, "prompt", where)
        turns = [before + each for each in turns]
    shared, responses = answers(turns[0], turns[1], where)
    return Comparison(shared, responses, votes, where, chosen_first=True)


def _share(scores: tuple[Any, Any], what: str, where: str) -> float:
    """The chosen response's share of one vote: all of it, or half where the scores of (chosen, rejected) are even."""
    if None in scores:
        return 1.0
    if not all(map(is_number, scores)):
        raise bad_row(where, what, "finite numbers", shown(scores))
    if scores[0] < scores[1]:
        raise bad_row(where, what, "the preferred response's to be no lower", f"{scores[0]} below {scores[1]}")
    return 0.5 if scores[0] == scores[1] else 1.0
