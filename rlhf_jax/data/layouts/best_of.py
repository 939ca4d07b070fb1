"""Rows that say which of K responses are right, for whoever chooses among them: pairs, and best-of-K rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, shown
from rlhf_jax.data.layouts.meaning import ASKED, SAID, check_meaning
from rlhf_jax.data.layouts.pairs import pair_votes
from rlhf_jax.data.layouts.purposes import comparison
from rlhf_jax.data.layouts.turns import SYSTEM, is_empty, prompt_of
from rlhf_jax.data.rows import Comparison, Prompt

# Shares come from float32 vote counts: equal up to this is equal.
_EVEN = 1e-6


class Choice(NamedTuple):
    """K responses to one prompt, and which of them people picked."""

    prompt: Prompt
    responses: tuple[str, ...]  # those that people picked first
    right: int  # how many they are; 0 where people tie
    share: float  # how much of the vote the first has against the others; 1/2 where people tie
    where: str


def choice(row: Row, where: str, *, golden: bool = False) -> Choice:
    """Read what people picked, from a comparison in any layout or from a best-of-K row.

    A best-of-K row is ``prompt``, ``chosen`` and ``rejected`` with a list of texts in one or both (RewardBench 2), or
    ``prompt``, ``responses`` and ``best``, the place of the right one counted from 0, or a list of places. In a ranking
    of K responses those of the first rank are right.

    Args:
        row: the fields.
        where: where the row stands.
        golden: a known answer (``golden``) that stands beside a pair is what counts, and not what a rater said.

    Returns:
        The choice; the first of two responses that tie is the row's first.

    Raises:
        DataError: if no layout fits, the layout compares nothing, or a field is bad.

    Example:
        >>> row = {"prompt": "A colour?", "chosen": ["Red.", "Blue."], "rejected": ["Two.", "No.", "A dog."]}
        >>> found = choice(row, "bench.jsonl:1")
        >>> found.right, found.responses[:2]
        (2, ('Red.', 'Blue.'))
        >>> choice({"prompt": "Hi.", "a": "No.", "b": "Hello!", "preference": "b"}, "pairs.jsonl:1").responses
        ('Hello!', 'No.')
    """
    if is_best_of(row):
        return _marked(row, where) if "best" in row and "responses" in row else _chosen(row, where)
    pair = comparison(row, where)
    if golden and pair.said is not None and pair.said.golden is not None:
        pair = pair._replace(votes=pair_votes(pair.said.golden))
    return of_comparison(pair)


def is_best_of(row: Row) -> bool:
    """Whether this is a best-of-K row, which is read to evaluate and not to train.

    Example:
        >>> is_best_of({"prompt": "Hi.", "responses": ["No.", "Hello!"], "best": 1}), is_best_of({"prompt": "Hi."})
        (True, False)
    """
    marked = "responses" in row and "best" in row
    return marked or ("prompt" in row and (_texts(row.get("chosen")) or _texts(row.get("rejected"))))


def of_comparison(pair: Comparison) -> Choice:
    """Find what people picked in a comparison: the response, or the responses, with the most votes.

    Args:
        pair: K responses and the votes among them.

    Returns:
        The choice; where all have as many votes, people tie.

    Example:
        >>> votes = np.array([[0, 0.4], [0.6, 0]], np.float32)
        >>> found = of_comparison(Comparison("Hi.", ("No.", "Hello!"), votes, "pairs.jsonl:1"))
        >>> found.responses, found.right, round(found.share, 2)
        (('Hello!', 'No.'), 1, 0.6)
    """
    won = pair.votes.sum(axis=1)
    order = np.argsort(-won, kind="stable")
    responses = tuple(pair.responses[i] for i in order)
    right = int((won >= won.max() - _EVEN).sum())
    if right == len(responses):
        return Choice(pair.prompt, responses, 0, 0.5, pair.where)
    best, rest = order[:right], order[right:]
    against, lost = pair.votes[np.ix_(best, rest)].sum(), pair.votes[np.ix_(rest, best)].sum()
    return Choice(pair.prompt, responses, right, float(against / (against + lost)), pair.where)


def _chosen(row: Row, where: str) -> Choice:
    """Read ``chosen`` and ``rejected``, of which one is a list of texts or both are."""
    both = [_listed(row[field], field, where) for field in ("chosen", "rejected")]
    return _checked(row, where, both[0], both[1], ("prompt", "chosen", "rejected"))


def _marked(row: Row, where: str) -> Choice:
    """Read ``responses`` and the place of the best in ``best``."""
    if not is_empty(row.get("ranking")):
        raise bad_row(where, "fields 'best' and 'ranking'", "one of them", "both")
    every, best = _listed(row["responses"], "responses", where), row["best"]
    places = [best] if isinstance(best, int) and not isinstance(best, bool) else best
    known = range(len(every))
    valid = isinstance(places, list | tuple) and bool(places) and all(type(x) is int and x in known for x in places)
    if not valid or len(set(places)) == len(every):
        expected = f"a place from 0 to {len(every) - 1}, or a list of some of them"
        raise bad_row(where, "field 'best'", expected, shown(best))
    right = [every[i] for i in known if i in places]
    return _checked(row, where, right, [every[i] for i in known if i not in places], ("prompt", "responses", "best"))


def _checked(row: Row, where: str, right: list[str], wrong: list[str], reads: Sequence[str]) -> Choice:
    prompt = prompt_of(row, where)
    asked = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
    check_meaning(row, where, (*reads, *SYSTEM), [*asked, *right, *wrong], (*ASKED, *SAID))
    return Choice(prompt, (*right, *wrong), len(right), 1.0, where)


def _texts(value: Any) -> bool:
    """Whether this is a list of texts, not of messages."""
    return isinstance(value, list | tuple) and any(isinstance(text, str) for text in value)


def _listed(value: Any, field: str, where: str) -> list[str]:
    """Check a field that has to be a text or a list of texts."""
    if isinstance(value, Mapping) or not isinstance(value, list | tuple | str) or not value:
        raise bad_row(where, f"field '{field}'", "a text or a non-empty list of texts", shown(value))
    texts = [value] if isinstance(value, str) else value
    return [checked_text(text, f"{field}[{i}]" if texts is value else field, where) for i, text in enumerate(texts)]
