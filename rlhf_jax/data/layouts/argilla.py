"""Records of Argilla: ``fields``, and ``responses`` by question and user, as version 2 or version 1 exports them.

As a table (``rg.Dataset.records.to_datasets``, on the hub) a record has its fields beside ``QUESTION.responses``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.layouts.fields import Row, is_number
from rlhf_jax.data.layouts.labels import Compared, compared, named_in, pair_row, place_of, ranking_row, unread
from rlhf_jax.data.layouts.turns import is_empty

_USERS = ".responses.users"
_TIMES = ("updated_at", "inserted_at")
_NOBODY = ("", "None", "null")  # how an export writes that it does not know who


def rows_of(record: Row, where: str) -> list[tuple[str, Row]]:
    """Make rows of a record: for every user a ranking, a preference, or a rating of each response; the first there is.

    Args:
        record: ``fields`` (a prompt and the responses), and ``responses``: ``{question: [{"value", "user_id"}]}``
            (version 2, ``rg.Dataset.records.to_json``), or ``[{"user_id", "values": {question: {"value"}}, "status"}]``
            (version 1). A label question's value names a response or a tie; a ranking's is a list of names, or of
            ``{"value", "rank"}``; a rating question names its response where there are several, as ``rating_1`` does.
        where: where the record stands.

    Returns:
        Pairs of where a row stands and the row; what was not submitted gives none, nor do comments.

    Raises:
        DataError: if the fields hold nothing to compare, or an answer cannot be read.

    Source: argilla-io/argilla, ``records/_resource.py`` (version 2) and ``client/feedback/schemas`` (version 1).
    """
    answers = _answers(record["responses"])
    if not answers:
        return []
    found = compared(record["fields"], "fields", where)
    made: list[tuple[str, Row]] = []
    for (user, _), given in answers.items():
        at = f"{where}, user {user!r}" if user else where
        said: dict[str, Any] = {"source": "person", **({"rater": user} if user else {})}
        times = [answer[when] for answer in given.values() for when in _TIMES if answer.get(when)]
        if times:
            said["time"] = times[0]
        values = {question: answer["value"] for question, answer in given.items()}
        made += [(at, {**row, **said}) for row in _rows(found, values, at)]
    return made


def from_table(row: Row) -> Row | None:
    """Put the columns of a record together again: ``QUESTION.responses``, ``.responses.users``, ``.responses.status``.

    Args:
        row: a row of the table.

    Returns:
        The record as ``rows_of`` takes it; its fields are all columns of text without a dot. None where no column
        says who answered.

    Example:
        >>> from_table({"prompt": "Hi.", "q.responses": ["a"], "q.responses.users": ["ann"]})["responses"]
        {'q': [{'value': 'a', 'user_id': 'ann', 'status': 'submitted'}]}
    """
    questions = [column.removesuffix(_USERS) for column in row if column.endswith(_USERS)]
    if not questions:
        return None
    responses: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        users, values, states = (
            list(row.get(f"{question}.responses{part}") or []) for part in (".users", "", ".status")
        )
        users += [None] * (len(values) - len(users))
        states += [None] * (len(values) - len(states))
        responses[question] = [
            {"value": value, "user_id": user, "status": state or "submitted"}
            for value, user, state in zip(values, users, states, strict=True)
        ]
    fields = {name: value for name, value in row.items() if "." not in name and isinstance(value, str | list)}
    return {"fields": fields, "responses": responses}


def _answers(responses: Any) -> dict[tuple[str, int], dict[str, Mapping[str, Any]]]:
    """By user, or by place where there is no user, and by question: what was submitted, and when."""
    answers: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    if isinstance(responses, Mapping):
        each = [
            (question, answer, answer, place)
            for question, given in responses.items()
            for place, answer in enumerate(given if isinstance(given, list) else [])
            if isinstance(answer, Mapping)
        ]
    else:
        each = [
            (question, answer, one, place)
            for place, one in enumerate(responses)
            if isinstance(one, Mapping) and isinstance(one.get("values"), Mapping)
            for question, answer in one["values"].items()
            if isinstance(answer, Mapping)
        ]
    for question, answer, one, place in each:
        if one.get("status", "submitted") == "submitted" and not is_empty(answer.get("value")):
            user = str(one.get("user_id"))
            times = {when: one[when] for when in _TIMES if one.get(when)}
            who = ("", place) if user in _NOBODY else (user, 0)
            answers.setdefault(who, {})[question] = {**times, "value": answer["value"]}
    return answers


def _rows(found: Compared, values: Mapping[str, Any], where: str) -> list[Row]:
    """The rows of one user: the ranking if there is one, else the preference, else the ratings."""
    for value in values.values():
        if (ranks := _ranks(value, found.names)) is not None:
            return [ranking_row(found.prompt, found.responses, ranks)]
    for value in values.values():
        place = place_of(value, found.names) if isinstance(value, str) and len(found.names) == 2 else None
        if place is not None:
            return [pair_row(found, place, value)]
    rated: list[Row] = []
    for question, value in values.items():
        place = 0 if len(found.names) == 1 else named_in(question, found.names)
        if is_number(value) and place is not None:
            rated.append({"prompt": found.prompt, "response": found.responses[place], "rating": value})
    if not rated:
        question, value = next(iter(values.items()))
        raise unread(value, f"responses.{question}", found.names, where)
    return rated


def _ranks(value: Any, known: Sequence[str]) -> list[int] | None:
    """A rank for each response of a ranking question's answer; None where it is none, or ranks not all of them."""
    if not isinstance(value, list) or len(value) != len(known) or len(known) < 2:
        return None
    ranks: dict[int | None, int] = {}
    for order, one in enumerate(value, start=1):
        name, rank = (one.get("value"), one.get("rank")) if isinstance(one, Mapping) else (one, order)
        if not isinstance(rank, int):
            return None
        ranks[place_of(name, known)] = rank
    return [ranks[place] for place in range(len(known))] if set(ranks) == set(range(len(known))) else None
