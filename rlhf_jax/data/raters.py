"""Rows of named raters as one table: what each of them said of each pair of responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.rows import Comparison, RatedResponse

FIRST, SECOND, TIE, UNKNOWN = 0, 1, 2, -1
_ALL_PAIRS = 50  # responses by one rater to one prompt, up to which all of their pairs are laid out
PairKey = tuple[str, str, str]  # prompt, and the two responses in the order of their texts


class LabelTable(NamedTuple):
    """What raters said of pairs of responses, as the functions of ``rlhf_jax.feedback`` take it.

    The two responses of an item come in the order of their texts, not in that of any row, so that a rater who always
    prefers the one shown first is seen to guess.
    """

    labels: np.ndarray  # int64 [n_items, n_raters]; 0 the first is preferred, 1 the second, 2 a tie, -1 not labelled
    times: np.ndarray  # float64 [n_items, n_raters]; seconds since 1970, NaN where the row does not say
    golden: np.ndarray  # int64 [n_items]; the known answer, -1 where nobody knows it
    items: tuple[PairKey, ...]
    raters: tuple[str, ...]  # in the order of their names


def label_table(rows: Sequence[Any]) -> LabelTable:
    """Lay out what named raters said of pairs: two responses, all pairs of a ranking, or of the responses one rated.

    Where a rater was asked twice about the same pair, the later answer counts, by time and then by place in the file.
    Where one rated more than 50 responses to a prompt, each is paired with the next 25 in the order of their texts.

    Args:
        rows: ``Comparison`` or ``RatedResponse``; those without a rater are passed over.

    Returns:
        The table; items in the order in which they are met.

    Example:
        >>> from rlhf_jax.data.layouts import judged
        >>> row = {"prompt": "Hi.", "a": "No.", "b": "Hello!", "preference": "b", "rater": "ann"}
        >>> other = {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": "tie", "rater": "bo"}
        >>> found = label_table([judged(row, "x:1"), judged(other, "x:2")])
        >>> found.labels.tolist(), found.raters, found.items
        ([[0, 2]], ('ann', 'bo'), (('Hi.', 'Hello!', 'No.'),))
    """
    given: dict[tuple[PairKey, str], tuple[float, int, float]] = {}  # time, label, time or NaN
    golden: dict[PairKey, int] = {}
    for key, rater, time, share, known in _opinions(rows):
        order = -np.inf if time is None else time
        before = given.get((key, rater))
        golden.setdefault(key, UNKNOWN)
        if known is not None:
            golden[key] = label_of(known)
        if before is None or order >= before[0]:
            given[key, rater] = (order, label_of(share), np.nan if time is None else time)
    items, raters = tuple(golden), tuple(sorted({rater for _, rater in given}))
    place = {key: i for i, key in enumerate(items)}
    column = {rater: k for k, rater in enumerate(raters)}
    labels = np.full((len(items), len(raters)), UNKNOWN, np.int64)
    times = np.full(labels.shape, np.nan)
    for (key, rater), (_, label, time) in given.items():
        labels[place[key], column[rater]], times[place[key], column[rater]] = label, time
    return LabelTable(labels, times, np.array([golden[key] for key in items], np.int64), items, raters)


def label_of(share: float) -> int:
    """The label of a pair whose first response has this share of a rater's vote.

    Example:
        >>> label_of(1.0), label_of(0.25), label_of(0.5)
        (0, 1, 2)
    """
    return TIE if share == 0.5 else FIRST if share > 0.5 else SECOND


def pair_key(prompt: Any, first: str, second: str) -> tuple[PairKey, bool]:
    """The name of a pair of responses, the same in either order, and whether that order is the other way round.

    Example:
        >>> pair_key("Hi.", "No.", "Hello!")
        (('Hi.', 'Hello!', 'No.'), True)
    """
    asked = prompt if isinstance(prompt, str) else repr(prompt)
    return ((asked, second, first), True) if second < first else ((asked, first, second), False)


def rated_pairs(own: Sequence[RatedResponse]) -> list[tuple[RatedResponse, RatedResponse]]:
    """The comparisons that a rater of several responses to one prompt makes of them.

    Args:
        own: what one rater gave responses to one prompt.

    Returns:
        All pairs of different responses; where there are more than 50, each with the next 25 in the order of their
        texts, the same for all raters, as all pairs would be too many.
    """
    far = len(own) if len(own) <= _ALL_PAIRS else _ALL_PAIRS // 2
    ordered = list(own) if len(own) <= _ALL_PAIRS else sorted(own, key=lambda row: row.response)
    return [
        (one, other)
        for i, one in enumerate(ordered)
        for other in ordered[i + 1 : i + 1 + far]
        if one.response != other.response
    ]


def _opinions(rows: Sequence[Any]) -> Iterator[tuple[PairKey, str, float | None, float, float | None]]:
    """Every pair that a rater said something of: key, rater, time, share and known share for the key's first."""
    rated: dict[tuple[str, str], list[RatedResponse]] = {}
    for row in rows:
        if row.said is None or not row.said.rater:
            continue
        if isinstance(row, Comparison):
            for i, j in zip(*np.triu_indices(len(row.responses), k=1), strict=True):
                both = float(row.votes[i, j] + row.votes[j, i])
                share = float(row.votes[i, j]) / both if both else 0.5
                yield _opinion(row, row.responses[i], row.responses[j], share)
        elif isinstance(row, RatedResponse):
            rated.setdefault((row.prompt, row.said.rater), []).append(row)
    for own in rated.values():
        for one, other in rated_pairs(own):
            share = 0.5 + 0.5 * float(np.sign(one.ratings.mean() - other.ratings.mean()))
            yield _opinion(other, one.response, other.response, share)


def _opinion(row: Any, first: str, second: str, share: float) -> tuple[PairKey, str, float | None, float, float | None]:
    key, turned = pair_key(row.prompt, first, second)
    known = row.said.golden
    if turned:
        share, known = 1 - share, None if known is None else 1 - known
    return key, row.said.rater, row.said.time, share, known
