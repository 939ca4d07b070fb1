"""How people agree by now: Krippendorff's alpha, and each rater with the others, with golden items, with themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax import feedback
from rlhf_jax.compare.items import Item
from rlhf_jax.compare.records import Answer

_CLASS = {"a": 0, "b": 1, "tie": 2, "both_bad": 2}


class RaterAgreement(NamedTuple):
    """One rater: how many pairs, and shares from 0 to 1; None where there is nothing to compare with."""

    answers: int  # pairs, without calibration, repeats and skips
    others: float | None  # ``feedback.agreement_with_others``
    golden: float | None  # with golden items that came unannounced
    calibration: float | None  # with those of the calibration
    repeats: float | None  # with their own first answer


class Agreement(NamedTuple):
    """All raters together, and one by one."""

    alpha: float | None  # ``feedback.label_alpha``: a tie lies halfway; None where it is not defined
    raters: dict[str, RaterAgreement]


def agreement(answers: Sequence[Answer], items: Mapping[str, Item]) -> Agreement:
    """Measure how people agree.

    "Both bad" counts as a tie. A rater's first answer to a pair counts; calibration is left out of alpha and of the
    agreement with others, as raters are told its answers.

    Args:
        answers: those that stand, ``Store.labels()``.
        items: the store's.

    Returns:
        The agreement of everybody who has answered.

    Example:
        >>> items = {str(i): Item(f"{i}?", "a", "b") for i in range(3)}
        >>> said = [("ann", "0", "a"), ("ann", "1", "b"), ("bo", "0", "a"), ("bo", "1", "a")]
        >>> rows = [Answer("", rater, item, "fresh", verdict, 1, 2.0, "") for rater, item, verdict in said]
        >>> agreement(rows, items).raters["bo"].others
        0.5
    """
    names = list(dict.fromkeys(answer.rater for answer in answers))
    said = [answer for answer in answers if answer.verdict != "skip"]
    table = _table([answer for answer in said if answer.kind in ("fresh", "golden")], names)
    others, _ = feedback.agreement_with_others(table)
    raters = {}
    for column, name in enumerate(names):
        own = [answer for answer in said if answer.rater == name]
        first = {answer.item: _CLASS[answer.verdict] for answer in own if answer.kind == "fresh"}
        raters[name] = RaterAgreement(
            int((table[:, column] >= 0).sum()),
            _known(others[column]),
            _share([_right(answer, items) for answer in own if answer.kind == "golden"]),
            _share([_right(answer, items) for answer in own if answer.kind == "calibration"]),
            _share([first.get(a.item) == _CLASS[a.verdict] for a in own if a.kind == "repeat" and a.item in first]),
        )
    return Agreement(_known(feedback.label_alpha(table)), raters)


def _table(answers: Sequence[Answer], names: Sequence[str]) -> np.ndarray:
    """Labels [n_items, n_raters], -1 where a rater did not compare an item."""
    rows = list(dict.fromkeys(answer.item for answer in answers))
    place = {item: i for i, item in enumerate(rows)}
    column = {name: i for i, name in enumerate(names)}
    table = np.full((len(rows), len(names)), -1, np.int64)
    for answer in answers:
        table[place[answer.item], column[answer.rater]] = _CLASS[answer.verdict]
    return table


def _right(answer: Answer, items: Mapping[str, Item]) -> bool:
    golden = items[answer.item].golden
    return golden is not None and _CLASS[answer.verdict] == _CLASS[golden]


def _share(right: Sequence[bool]) -> float | None:
    return float(np.mean(right)) if len(right) else None


def _known(value: float) -> float | None:
    """None in place of NaN."""
    return None if np.isnan(value) else float(value)
