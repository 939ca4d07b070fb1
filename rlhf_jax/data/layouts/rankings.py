"""K responses to one prompt in the order that somebody gave them, ties allowed: the votes of all their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, shown, value_of
from rlhf_jax.data.layouts.turns import prompt_of
from rlhf_jax.data.rows import Comparison


def parse_ranking(row: Row, where: str) -> Comparison:
    """Read ``prompt``, ``responses`` (K texts) and their ``ranking``, in either of two forms.

    - a rank for each response, 1 for the best, equal ranks for a tie: ``[1, 2, 2, 4]``, or ``[1, 2, 2, 3]``;
    - the order, best first, as groups of places counted from 0: ``[[0], [1, 2], [3]]``.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The comparison; every pair of its responses has one vote, which a tie splits in half.

    Raises:
        DataError: if a field is missing or of the wrong kind, or the ranking could be either form.

    Example:
        >>> row = {"prompt": "Hi.", "responses": ["No.", "Hello!", "Hey!"], "ranking": [2, 1, 1]}
        >>> parse_ranking(row, "ranked.jsonl:1").votes.tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]]
    """
    prompt, texts = prompt_of(row, where), value_of(row, "responses", where)
    if not isinstance(texts, list | tuple) or len(texts) < 2:
        raise bad_row(where, "field 'responses'", "a list of 2 texts or more", shown(texts))
    responses = tuple(checked_text(text, f"responses[{place}]", where) for place, text in enumerate(texts))
    ranks = ranks_of(value_of(row, "ranking", where), len(responses), where)
    return Comparison(prompt, responses, ranked_votes(ranks), where)


def ranks_of(value: Any, count: int, where: str) -> list[int]:
    """Read a ranking in either form into a rank for each response, smaller for a better one.

    Args:
        value: the field.
        count: how many responses there are.
        where: where the row stands.

    Returns:
        [count], whole numbers of which only the order matters.

    Raises:
        DataError: if it is neither form, or could be both.

    Example:
        >>> ranks_of([[2], [0, 1]], 3, "ranked.jsonl:1")
        [2, 2, 1]
    """
    each = list(value) if isinstance(value, list | tuple) else []
    if each and all(isinstance(group, list | tuple) for group in each):
        places = [place for group in each for place in group]
        if not all(_whole(place) for place in places) or sorted(places) != list(range(count)):
            expected = f"groups that hold each place from 0 to {count - 1} once, best first"
            raise bad_row(where, "field 'ranking'", expected, shown(value))
        return [rank for _, rank in sorted((p, rank) for rank, group in enumerate(each, start=1) for p in group)]
    if not each or not all(map(_whole, each)):
        raise bad_row(where, "field 'ranking'", "a list of whole numbers, a rank for each response", shown(value))
    if 0 in each:
        expected = (
            "ranks from 1, or places in groups as in [[2], [0, 1]]: a flat list with a 0 in it could be ranks or places"
        )
        raise bad_row(where, "field 'ranking'", expected, shown(value))
    if len(each) != count or min(each) != 1:
        raise bad_row(where, "field 'ranking'", f"{count} ranks, 1 for the best", shown(value))
    return each


def ranked_votes(ranks: Sequence[int]) -> np.ndarray:
    """Count the votes that one ranking is among its responses, ties counted half.

    Args:
        ranks: [K], smaller for a better response.

    Returns:
        float32 [K, K], as in ``Comparison``: ``votes[i, j] + votes[j, i]`` is 1 for every pair.

    Example:
        >>> ranked_votes([1, 2]).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    rank = np.asarray(ranks, np.float64)
    votes = 0.5 + 0.5 * np.sign(rank[None, :] - rank[:, None])
    return np.asarray(votes * (1 - np.eye(len(rank))), np.float32)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
