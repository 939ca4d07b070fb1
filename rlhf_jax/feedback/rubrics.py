"""Rubrics: weighted criteria in a file, by which a judge compares responses."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_LARGEST = 2**20  # bytes; what is larger is another file that was named by mistake
PLACES = re.compile(r"\{(prompt|text|response|first|second|responses|letters)\}")
"""What of a question is replaced."""
_ASKS = {"response", "first", "second", "responses"}
_FORM = 'expected criteria with text and weight, in TOML [[criteria]], then text = "The response is ...", weight = 1'


class RubricError(ValueError):
    """A rubric that cannot be used; the message names file and field and says what to do."""


class Criterion(NamedTuple):
    """What responses are compared by, and how much it counts."""

    text: str
    """A sentence that is true of a good response."""
    weight: float = 1.0
    name: str = ""
    question: str = ""
    """How it is asked, where not in the judge's own words: with ``{response}`` of one response, with ``{first}`` and
    ``{second}`` of a pair, with ``{responses}`` of all, which go by ``{letters}``; ``{prompt}`` and ``{text}`` may
    stand there too."""
    completion: str = ""
    """The same for a text which the answer continues, without turns."""
    answers: tuple[str, ...] = ()
    """What may be answered in place of 1 to 10, the worst first; or of A and B, the first response's first."""


class Rubric(NamedTuple):
    """All criteria of a file."""

    criteria: tuple[Criterion, ...]
    digest: str
    """The file's version: 16 hexadecimal digits of a SHA-256 over names, texts and weights, comments left out."""


def read_rubric(path: Path | str) -> Rubric:
    """Read a rubric.

    Args:
        path: a TOML file with a table ``[[criteria]]`` for each, or a JSON file with a list ``criteria``: ``text``, and
            where wanted the other fields of ``Criterion``; weight is 1 by default, name ``criterion 1`` and so on.

    Returns:
        Its criteria, in order, and their version.

    Raises:
        RubricError: when the file cannot be read, or a field is not what it may be.
    """
    at = Path(path)
    kinds: dict[str, Any] = {".toml": tomllib.loads, ".json": json.loads}
    if at.suffix.lower() not in kinds:
        raise RubricError(f"{path}: a rubric is a .toml or a .json file")
    try:
        if (size := at.stat().st_size) > _LARGEST:
            raise RubricError(f"{path}: {size:,} bytes are no rubric; name another file")
        text = at.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RubricError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise RubricError(f"{path}: expected a text file in UTF-8 ({error})") from error
    try:
        fields = kinds[at.suffix.lower()](text)
    except (ValueError, RecursionError) as error:
        raise RubricError(f"{path}: is no {at.suffix[1:].upper()} ({error})") from error
    return rubric_of(fields, called=str(path))


def rubric_of(fields: Any, *, called: str = "rubric") -> Rubric:
    """Take a rubric from what a file holds.

    Args:
        fields: ``{"criteria": [{"text": ..., "weight": ..., "name": ...}, ...]}``
        called: what messages call the file.

    Returns:
        Its criteria, in order, and their version.

    Raises:
        RubricError: as for ``read_rubric``.

    Example:
        >>> [kind] = rubric_of({"criteria": [{"text": "The response is kind.", "weight": 2}]}).criteria
        >>> kind.name, kind.weight
        ('criterion 1', 2.0)
    """
    criteria = fields.get("criteria") if isinstance(fields, dict) else None
    if not isinstance(criteria, list) or not criteria:
        raise RubricError(f"{called}: {_FORM}")
    if unknown := sorted(set(fields) - {"criteria"}):
        raise RubricError(f"{called}: unknown field {unknown[0]!r}: {_FORM}")
    found: dict[str, Criterion] = {}
    for number, one in enumerate(criteria, 1):
        criterion = _criterion(one, number, called)
        if criterion.name in found:
            raise RubricError(f"{called}: a second criterion is called {criterion.name!r}: rename one of them")
        found[criterion.name] = criterion
    said = json.dumps([list(one) for one in found.values()])
    return Rubric(tuple(found.values()), hashlib.sha256(said.encode("ascii")).hexdigest()[:16])


def _criterion(fields: Any, number: int, called: str) -> Criterion:
    where = f"{called}: criterion {number}"
    if not isinstance(fields, dict):
        raise RubricError(f"{where} is {fields!r:.60}: {_FORM}")
    if unknown := sorted(set(map(str, fields)) - set(Criterion._fields)):
        raise RubricError(f"{where}: unknown field {unknown[0]!r}: it may have {', '.join(Criterion._fields)}")
    text, weight, name = fields.get("text"), fields.get("weight", 1), fields.get("name", f"criterion {number}")
    if not isinstance(text, str) or not text.strip():
        raise RubricError(f"{where}: text must be a sentence that is true of a good response, found {text!r:.60}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise RubricError(f"{where}: weight must be a number above 0, found {weight!r:.60}")
    if not isinstance(name, str) or not name.strip():
        raise RubricError(f"{where}: name must be a text, found {name!r:.60}")
    question, completion, answers = _wording(fields, where)
    return Criterion(" ".join(text.split()), float(weight), name.strip(), question, completion, answers)


def _wording(fields: Mapping[str, Any], where: str) -> tuple[str, str, tuple[str, ...]]:
    """How a criterion is asked, where a file says so in words of its own."""
    asked = {form: fields.get(form, "") for form in ("question", "completion")}
    for form, text in asked.items():
        if not isinstance(text, str):
            raise RubricError(f"{where}: {form} must be a text, found {text!r:.60}")
        shows = set(PLACES.findall(text))
        if text and shows & _ASKS not in ({"response"}, {"first", "second"}, {"responses"}):
            raise RubricError(
                f"{where}: {form} must show {{response}} alone, or {{first}} and {{second}} of a pair, or all "
                "{responses}, each in these words"
            )
    if all(asked.values()):
        raise RubricError(f"{where} has a question and a completion: leave one of them out")
    answers = fields.get("answers", [])
    known = isinstance(answers, list) and all(isinstance(a, str) and a.strip() for a in answers)
    if not known or len(answers) == 1 or len(set(answers)) < len(answers):
        raise RubricError(f"{where}: answers must be a list of at least two different texts, found {answers!r:.60}")
    text = asked["question"] or asked["completion"]
    if answers and not text:
        raise RubricError(f"{where} has answers and no question that is asked for them: write it, or leave them out")
    if answers and ("{responses}" in text or ("{first}" in text and len(answers) != 2)):
        kind = "an order is answered with letters" if "{responses}" in text else "one of a pair is one of two answers"
        raise RubricError(f"{where}: answers: {kind}, found {answers!r:.60}")
    return asked["question"], asked["completion"], tuple(answers)
