"""What a record of a labelling tool compares, and which response a label names, however its project calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, names, shown

_PROMPTS = ("prompt", "instruction", "question", "query", "context", "input", "chat", "conversation")
_ONE = ("response", "answer", "completion", "generation", "output", "reply", "text", "summary", "candidate")
_RESPONSE = re.compile(rf"({'|'.join(_ONE)})[\s_-]*(\d+|[a-h])")
_TIES = frozenset(("tie", "both", "equal", "equally", "same", "draw", "bothgood", "equallygood", "nopreference"))
_BAD = frozenset(("neither", "none", "bothbad", "equallybad"))
_SIDES = {"left": 0, "first": 0, "right": 1, "second": 1}
_BETTER = re.compile(r"(?:is|was)?(?:much|slightly)?(?:better|best|preferred|wins)$")

TIE = -1  # in place of a response's place


class Compared(NamedTuple):
    """The prompt and the responses of a record, with the names that its project gave them."""

    prompt: Any
    names: tuple[str, ...]
    responses: tuple[str, ...]


def compared(fields: Mapping[str, Any], field: str, where: str) -> Compared:
    """Find the prompt and the responses among the fields of a record.

    Args:
        fields: what was shown to people.
        field: what the record calls them, for an error.
        where: where the record stands.

    Returns:
        The prompt under ``prompt``, ``instruction``, ``question`` or the like; responses under ``response_1`` and
        ``response_2``, ``answer1``, ``a`` and ``b`` or the like, in the order of their numbers or letters; or one
        ``response``.

    Raises:
        DataError: if there is no prompt or no response, or one is no text.

    Example:
        >>> compared({"prompt": "Hi.", "answer2": "No.", "answer1": "Hello!"}, "data", "x:1").responses
        ('Hello!', 'No.')
    """
    asked = next((name for name in _PROMPTS if name in fields), None)
    if asked is None:
        raise bad_row(where, f"field '{field}'", f"a prompt, one of {names(_PROMPTS)}", f"only {names(fields)}")
    numbered = _numbered(fields)
    if not numbered:
        numbered = {name: name.lower() for name in fields if name.lower() in ("a", "b", "c", "d")}
    ordered = sorted(numbered, key=lambda name: (len(numbered[name]), numbered[name]))
    if not ordered:
        ordered = [name for name in _ONE if name in fields and name != asked][:1]
    if not ordered and not items_of(fields):
        expected = "responses, as 'response_1' and 'response_2', or one 'response'"
        raise bad_row(where, f"field '{field}'", expected, f"only {names(fields)}")
    texts = tuple(checked_text(fields[name], f"{field}.{name}", where) for name in ordered)
    prompt = fields[asked]
    return Compared(prompt, tuple(ordered), texts)


def _numbered(fields: Mapping[str, Any]) -> dict[str, str]:
    """The fields of responses by name, each with its number or letter; the sort that has most fields."""
    sorts: dict[str, dict[str, str]] = {}
    for name in fields:
        if found := _RESPONSE.fullmatch(name.lower()):
            sorts.setdefault(found[1], {})[name] = found[2]
    return max(sorts.values(), key=len, default={})


def items_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """Find the responses that stand in a list of objects with an id each: id -> text.

    Example:
        >>> items_of({"items": [{"id": "m1", "title": "Model 1", "body": "Hello!"}, {"id": "m2", "body": "No."}]})
        {'m1': 'Hello!', 'm2': 'No.'}
    """
    for value in fields.values():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(x, Mapping) and "id" in x for x in value):
            texts = [next((x[name] for name in ("body", "text", "html", "title") if x.get(name)), None) for x in value]
            if all(isinstance(text, str) for text in texts):
                return {str(x["id"]): str(text) for x, text in zip(value, texts, strict=True)}
    return {}


def place_of(label: Any, known: Sequence[str]) -> int | None:
    """Find which response a label names: its place, ``TIE``, or None where it names none.

    Args:
        label: what the rater chose, as ``response_1``, ``1``, ``B is better``, ``left`` or ``tie``.
        known: the names of the responses, in order.

    Example:
        >>> known = ("response_a", "response_b")
        >>> [place_of(label, known) for label in ("response_b", "A is better", "right", "Both bad", "too long")]
        [1, 0, 1, -1, None]
    """
    word = _plain(label)
    if word in _TIES or word in _BAD:
        return TIE
    word = _BETTER.sub("", word) or word
    for place, name in enumerate(known):
        found = _RESPONSE.fullmatch(name.lower())
        end = found[2] if found else name.lower()
        if word in (_plain(name), end, f"response{end}", f"answer{end}", f"option{end}"):
            return place
    return _SIDES.get(word) if len(known) == 2 else None


def named_in(question: str, known: Sequence[str]) -> int | None:
    """Find the response that a question is about by its name, as ``response_1_rating`` or ``rating-1``.

    Example:
        >>> named_in("rating_2", ("response_1", "response_2")), named_in("quality", ("response_1", "response_2"))
        (1, None)
    """
    words = re.split(r"[^a-z0-9]+", question.lower())
    whole = [place for place, name in enumerate(known) if _plain(name) in _plain(question)]
    if len(whole) == 1:
        return whole[0]
    ends = [found[1] for word in words if (found := re.fullmatch(r"(?:[a-z]*)(\d+)|[a-h]", word)) and found[1]]
    ends += [word for word in words if re.fullmatch(r"[a-h]", word)]
    places = {place_of(end, known) for end in ends} - {None, TIE}
    return places.pop() if len(places) == 1 else None


def pair_row(found: Compared, place: int, label: Any) -> dict[str, Any]:
    """Write a rater's choice among two responses as a row of ours.

    Args:
        found: the prompt and both responses.
        place: 0, 1 or ``TIE``.
        label: what the rater chose, which may say that both are bad.

    Returns:
        The row, without who said it.
    """
    bad = {"both_bad": True} if place == TIE and _plain(label) in _BAD else {}
    first, second = found.responses
    return {"prompt": found.prompt, "a": first, "b": second, "preference": {0: "a", 1: "b"}.get(place, "tie"), **bad}


def ranking_row(prompt: Any, responses: Sequence[str], ranks: Sequence[int]) -> Row:
    """Write a rater's ranking as a row of ours, its ranks counted from 1 without gaps.

    Example:
        >>> ranking_row("Hi.", ["a", "b", "c"], [3, 0, 3])["ranking"]
        [2, 1, 2]
    """
    order = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return {"prompt": prompt, "responses": list(responses), "ranking": [order[rank] for rank in ranks]}


def unread(label: Any, field: str, known: Sequence[str], where: str) -> Exception:
    """Make the complaint, to be raised, about a label that names none of the responses."""
    expected = f"a response ({names(known)}), a tie, a ranking of the responses, or a number for one of them"
    return bad_row(where, f"field '{field}'", expected, shown(label))


def _plain(label: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "", str(label).lower())
