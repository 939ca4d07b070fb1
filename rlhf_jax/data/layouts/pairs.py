"""Two responses to one prompt and what people said of them, in our own forms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_numbers, is_number, names, shown, text_of
from rlhf_jax.data.layouts.turns import prompt_of
from rlhf_jax.data.rows import Comparison


def parse_comparison(row: Row, where: str) -> Comparison:
    """Read a pair of responses to one prompt (a text, or a list of messages), in any of three forms.

    - ``prompt``, ``chosen``, ``rejected``: one vote for ``chosen``, which comes first;
    - ``prompt``, ``a``, ``b``, ``preference``: "a", "b" or "tie", or the share of people who prefer A, from 0 to 1;
    - ``prompt``, ``a``, ``b``, ``ratings``: ``{"a": [...], "b": [...]}``, every rater's number; the share of pairs of
      raters in which A has the larger number, ties counted half, times the smaller number of raters.

    Args:
        row: the fields.
        where: where the row stands.

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
    return Comparison(prompt, responses, pair_votes(share, raters), where, chosen_first=not named)


def pair_votes(share: float, raters: int = 1) -> np.ndarray:
    """Turn a share of raters into the votes between two responses.

    Args:
        share: the share of raters who prefer the first response, from 0 to 1.
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
