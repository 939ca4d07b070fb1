"""Examples of a critique and a revision, shown as earlier turns: small models revise little without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.layouts.fields import bad_row, checked_text, names, shown
from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.feedback.principles import Principle, Principles

_FIELDS = ("prompt", "response", "critique", "revision")


class Shown(NamedTuple):
    """One example."""

    prompt: str
    response: str
    critique: str  # empty where it shows none
    revision: str
    principle: str = ""  # whose example it is; all have it where this is empty


def read_examples(path: str, principles: Principles, *, critique: bool) -> list[Shown]:
    """Read examples, and check that they show what is asked for.

    Args:
        path: a .jsonl file of rows ``prompt, response, critique, revision``, and ``principle`` where a row is for one
            of them alone; empty: there is none.
        principles: whose names rows may have.
        critique: whether critiques are asked for, which every row then has to show.

    Returns:
        The examples in order.

    Raises:
        DataError: when a row is none; the message names file, line and field.
    """

    def parse(row: Mapping[str, Any], where: str) -> Shown:
        needed = [field for field in _FIELDS if critique or field != "critique"]
        for field in needed:
            if field not in row:
                raise bad_row(where, f"field '{field}'", f"the fields {names(needed)}", names(row))
        principle = row.get("principle", "")
        known = [one.name for one in principles.all]
        if principle and principle not in known:
            raise bad_row(where, "field 'principle'", f"one of {names(known)}", shown(principle))
        texts = {field: checked_text(row[field], field, where) for field in needed}
        return Shown(**{"critique": "", **texts}, principle=principle)

    return read_jsonl(path, parse, "error")[0] if path else []


def of_principle(examples: Sequence[Shown], principle: Principle) -> list[Shown]:
    """Pick the examples of a principle, and those of all.

    Example:
        >>> two = [Shown("Hi.", "No.", "", "Yes.", "kind"), Shown("Hi.", "No, no.", "", "No.", "brief")]
        >>> [one.revision for one in of_principle(two, Principle("kind", "It is kind."))]
        ['Yes.']
    """
    return [one for one in examples if one.principle in ("", principle.name)]
