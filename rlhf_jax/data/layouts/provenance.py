"""Who said what a row says, and when: the fields that may stand beside any opinion, checked."""

from __future__ import annotations

import datetime
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, is_number, names, shown
from rlhf_jax.data.layouts.turns import is_empty
from rlhf_jax.data.rows import Comparison, LabelledResponse, Provenance, RatedResponse

PROVENANCE = ("rater", "time", "confidence", "source", "round", "golden", "both_bad")
# What the page on which people compare and judges write besides, for other programs.
EXPORTED = (
    "pair",
    "model_a",
    "model_b",
    "shown_first",
    "shown_second",
    "score_a",
    "score_b",
    "principle",
    "principles",
)
SOURCES = ("person", "judge", "principle")  # what ``source`` says by convention; other texts are left as they are
OPINIONS = ("comparisons", "rated responses", "labelled responses")  # what layouts give that have these fields
_LATEST = 1e11  # seconds, the year 5138: a larger number counts milliseconds
_KEEP = ", or another name for the field if it means something else"


def with_provenance(found: Any, row: Row, where: str) -> Any:
    """Read the fields beside an opinion that say who gave it.

    Args:
        found: the opinion: a ``Comparison``, ``RatedResponse`` or ``LabelledResponse``.
        row: the fields of its row.
        where: where the row stands.

    Returns:
        The opinion with what the row says of it; as it is where the row says nothing.

    Raises:
        DataError: if one of these fields is of the wrong kind.

    Example:
        >>> import numpy as np
        >>> rated = RatedResponse("Hi.", "Hello!", np.array([4.0]), "rated.jsonl:1")
        >>> with_provenance(rated, {"rater": "ann", "time": "1970-01-01T00:01:00Z"}, "rated.jsonl:1").said
        Provenance(rater='ann', time=60.0, confidence=1.0, source='', round=None, golden=None, both_bad=False)
    """
    there = {field: row[field] for field in PROVENANCE if not is_empty(row.get(field))}
    if not there:
        return found
    said = Provenance(
        rater=_rater(there.get("rater"), where),
        time=_time(there.get("time"), where),
        confidence=_confidence(there.get("confidence"), where),
        source=checked_text(there["source"], "source", where) if "source" in there else "",
        round=_round(there.get("round"), where),
        golden=_golden(there.get("golden"), found, where),
        both_bad=_both_bad(there.get("both_bad"), found, where),
    )
    return found._replace(said=said)


def _rater(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # many tools number their people
    return checked_text(value, "rater", where).strip()


def _time(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if is_number(value) and abs(value) < _LATEST:
        return float(value)
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        expected = f"a time in ISO 8601, as 2026-11-27T12:30:00Z, or in seconds since 1970{_KEEP}"
        raise bad_row(where, "field 'time'", expected, shown(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _confidence(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if not is_number(value) or not 0 <= value <= 1:
        raise bad_row(where, "field 'confidence'", f"a number from 0 to 1{_KEEP}", shown(value))
    return float(value)


def _round(value: Any, where: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise bad_row(where, "field 'round'", f"a whole number, at least 0{_KEEP}", shown(value))
    return value


def _golden(value: Any, found: Comparison | RatedResponse | LabelledResponse, where: str) -> float | None:
    """The known answer of a pair, as the share of votes for its first response."""
    if value is None:
        return None
    if not isinstance(found, Comparison) or len(found.responses) != 2:
        raise bad_row(where, "field 'golden'", "none: a golden answer stands beside a pair of responses", shown(value))
    answers = {"chosen" if found.chosen_first else "a": 1.0, "rejected" if found.chosen_first else "b": 0.0, "tie": 0.5}
    if not isinstance(value, str) or value not in answers:
        raise bad_row(where, "field 'golden'", f"the known answer, one of {names(answers)}{_KEEP}", shown(value))
    return answers[value]


def _both_bad(value: Any, found: Comparison | RatedResponse | LabelledResponse, where: str) -> bool:
    if value is None or value is False:
        return False
    if value is not True:
        raise bad_row(where, "field 'both_bad'", "true or false", shown(value))
    if not isinstance(found, Comparison) or len(found.responses) != 2 or found.votes[0, 1] != found.votes[1, 0]:
        raise bad_row(where, "field 'both_bad'", "a tie of two responses beside it", "another opinion")
    return True
