"""Records of labelling tools, each with what several people said: they are unfolded to one row a rater.

``argilla`` and ``label_studio`` read the two formats with what ``labels`` knows of names; here is which a record has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.layouts import argilla, label_studio
from rlhf_jax.data.layouts.fields import Row, bad_row


def unfold(row: Row, where: str) -> list[tuple[str, Row]] | None:
    """Make rows of our own forms of a record of an export, one for each rater, or for each response that one rated.

    Args:
        row: the fields.
        where: where the record stands.

    Returns:
        Pairs of where a row stands and the row, empty where nobody has answered; None where it is no such record.

    Raises:
        DataError: if the record is one, and something in it cannot be read.

    Example:
        >>> record = {
        ...     "fields": {"prompt": "Hi.", "response_1": "Hello!", "response_2": "No."},
        ...     "responses": {"better": [{"value": "response_1", "user_id": "ann"}]},
        ... }
        >>> unfold(record, "x.json row 0")[0][1]["preference"]
        'a'
    """
    if isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping | list):
        return argilla.rows_of(row, where)
    if isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list):
        return label_studio.rows_of(row, where)
    if (record := argilla.from_table(row)) is not None:
        return argilla.rows_of(record, where)
    if {"annotation_id", "lead_time"} <= row.keys():
        found = "'annotation_id' and 'lead_time', as in Label Studio's JSON_MIN: export it as JSON"
        raise bad_row(where, "the record", "'data' and 'annotations'", found)
    return None


class Unfolded(NamedTuple):
    """Rows after records of exports were unfolded."""

    rows: list[tuple[str, Row | DataError]]
    unanswered: int  # records that give no row, as nobody has answered


def unfold_all(rows: Iterable[tuple[str, Row]]) -> Unfolded:
    """Unfold the records of exports among rows; others stay as they are.

    Args:
        rows: pairs of where a row stands and the row.

    Returns:
        The rows, with the error in place of a record that cannot be read, as ``readers.jsonl.collect`` takes them.
    """
    found: list[tuple[str, Row | DataError]] = []
    unanswered = 0
    for where, row in rows:
        try:
            made = unfold(row, where)
        except DataError as error:
            found.append((where, error))
            continue
        unanswered += made == []
        found += [(where, row)] if made is None else made
    return Unfolded(found, unanswered)
