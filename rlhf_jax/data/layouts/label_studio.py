"""Tasks of Label Studio: ``data``, and ``annotations`` with what each person chose, ranked or rated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, is_number, shown
from rlhf_jax.data.layouts.labels import (
    TIE,
    Compared,
    compared,
    items_of,
    named_in,
    pair_row,
    place_of,
    ranking_row,
    unread,
)

_NUMBERS = ("rating", "number")  # types of results that are a number, under a field of that name


def rows_of(task: Row, where: str) -> list[tuple[str, Row]]:
    """Make rows of a task of a JSON export: for every annotation a ranking, a preference, or ratings.

    Args:
        task: ``data`` (a prompt and the responses, as ``answer1`` and ``answer2``, or a list of items with ids), and
            ``annotations``, each ``{"completed_by", "created_at", "result": [...]}``. A result of type ``pairwise``
            chooses ``left`` or ``right``, ``choices`` names a response or a tie, ``ranker`` lists the ids of items with
            the best first, ``rating`` or ``number`` is for the response that its ``to_name`` or ``from_name`` names.
        where: where the task stands.

    Returns:
        Pairs of where a row stands and the row. Annotations that were cancelled give none. Where one of several is
        marked ``ground_truth``, what it prefers is the golden answer of the others.

    Raises:
        DataError: if the data hold nothing to compare, or a result cannot be read.

    Source: labelstud.io, "Label Studio JSON format of annotated tasks", and the tags Pairwise, Ranker, Rating, Choices.
    """
    given = [
        one
        for one in task["annotations"]
        if isinstance(one, Mapping) and not one.get("was_cancelled") and isinstance(one.get("result"), list)
    ]
    given = [one for one in given if one["result"]]
    if not given:
        return []
    found = compared(task["data"], "data", where)
    items = items_of(task["data"])
    each = [
        (one, _rows(found, items, one["result"], f"{where}, annotation {one.get('id', i)}"))
        for i, one in enumerate(given)
    ]
    truth = [rows[0] for one, rows in each if one.get("ground_truth") and rows and "preference" in rows[0]]
    golden = {"golden": truth[0]["preference"]} if len(truth) == 1 and len(each) > 1 else {}
    made: list[tuple[str, Row]] = []
    for i, (one, rows) in enumerate(each):
        if golden and one.get("ground_truth"):
            continue
        said: dict[str, Any] = {"source": "person", **golden}
        if rater := _who(one.get("completed_by")):
            said["rater"] = rater
        if when := one.get("updated_at") or one.get("created_at"):
            said["time"] = when
        made += [(f"{where}, annotation {one.get('id', i)}", {**row, **said}) for row in rows]
    return made


def _who(person: Any) -> str:
    """A person's e-mail address or number, whichever the export has."""
    if isinstance(person, Mapping):
        person = person.get("email") or person.get("id")
    return "" if person is None else str(person)


def _rows(found: Compared, items: Mapping[str, str], results: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """The rows of one annotation: the ranking if there is one, else the preference, else the ratings."""
    read = [one for one in results if isinstance(one, Mapping) and isinstance(one.get("value"), Mapping)]
    for one in read:
        if one.get("type") == "ranker":
            order = _order(one["value"].get("ranker"), items, where)
            ranks = [order.index(name) for name in items]
            return [dict(ranking_row(found.prompt, list(items.values()), ranks))]
    for one in read:
        label = _choice(one)
        place = None if label is None or len(found.names) != 2 else place_of(label, found.names)
        if place is not None:
            return [pair_row(found, place, label)]
    rated = []
    for one in read:
        number = one["value"].get(one.get("type")) if one.get("type") in _NUMBERS else None
        about = f"{one.get('to_name', '')} {one.get('from_name', '')}"
        place = 0 if len(found.names) == 1 else named_in(about, found.names)
        if is_number(number) and place is not None and place != TIE:
            rated.append({"prompt": found.prompt, "response": found.responses[place], "rating": number})
    if not rated:
        raise unread(results, "annotations.result", found.names, where)
    return rated


def _choice(result: Mapping[str, Any]) -> Any:
    value = result["value"]
    if result.get("type") == "pairwise":
        return value.get("selected")
    chosen = value.get("choices") if result.get("type") == "choices" else None
    return chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else None


def _order(ranked: Any, items: Mapping[str, str], where: str) -> list[str]:
    """The ids of all items, best first."""
    if isinstance(ranked, Mapping):
        filled = [own for own in ranked.values() if own]
        ranked = filled[0] if len(filled) == 1 else None
    order = [str(one) for one in ranked] if isinstance(ranked, list) else []
    if sorted(order) != sorted(items):
        expected = f"the ids of all items in one order, {', '.join(items) or 'which the data lack'}"
        raise bad_row(where, "field 'annotations.result.value.ranker'", expected, shown(ranked))
    return order
