"""The table of layouts in which people publish data: the fields that tell one from the others, and who reads it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.layouts import published
from rlhf_jax.data.layouts.fields import Row, bad_row, names
from rlhf_jax.data.layouts.pairs import parse_comparison
from rlhf_jax.data.layouts.parse import (
    parse_alpaca,
    parse_demonstration,
    parse_dialogue,
    parse_labelled,
    parse_prompt,
    parse_rated,
    parse_text,
)


class Layout(NamedTuple):
    """One layout: what its rows are called, which fields they have and how they are read."""

    name: str
    columns: tuple[str, ...]  # fields that such a row must have; it may have others
    gives: str  # for messages
    parse: Callable[[Row, str], Any]  # to one of the types of ``rows``


def recognise(columns: Iterable[str], where: str = "") -> Layout:
    """Find the layout of a row.

    Args:
        columns: the names of its fields.
        where: where the row stands.

    Returns:
        The first layout of the table whose fields are all there.

    Raises:
        DataError: if no layout fits; it lists the fields and the layouts.

    Example:
        >>> recognise(["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"]).name
        'SHP'
    """
    there = set(columns)
    found = next((layout for layout in LAYOUTS if set(layout.columns) <= there), None)
    if found is None:
        start = f"{where}: " if where else ""
        known = "; ".join(f"{layout.name} ({', '.join(layout.columns)})" for layout in LAYOUTS)
        raise DataError(
            f"{start}no layout fits the fields {names(there) or '(none)'}; rename them to one of those known: {known}"
        )
    return found


def read_row(row: Row, where: str, ours: Callable[[Row, str], Any]) -> tuple[Any, Layout]:
    """Recognise the layout of a row, and read the row as the layout has it.

    Args:
        row: the fields.
        where: where the row stands.
        ours: the function for a row that has a prompt and no other known field: it says what is missing.

    Returns:
        One of the types of ``rows``, and the layout.

    Raises:
        DataError: if no layout fits, or a field is bad.
    """
    layout = recognise(row, where)
    if any(row[column] is None for column in layout.columns):
        # Tables fill the fields that a row does not have with null, where its file holds rows of two layouts.
        there = {key: value for key, value in row.items() if value is not None}
        other = next((x for x in LAYOUTS if x.gives == layout.gives and set(x.columns) <= there.keys()), None)
        if other is not None:
            row, layout = there, other
    found = ours(row, where) if layout.name == "prompts" else layout.parse(row, where)
    return found, layout


def unfit(layout: Layout, row: Row, where: str, wanted: str) -> DataError:
    """Make the complaint, to be raised, about a row that has nothing for the purpose it is read for.

    Args:
        layout: the row's.
        row: the fields.
        where: where the row stands.
        wanted: what it should give.

    Returns:
        The error.
    """
    return bad_row(where, f"fields {names(row)}", wanted, f"the layout {layout.name}, which gives {layout.gives}")


# The first whose fields are all there is a row's layout, so those with more fields come first.
LAYOUTS = (
    Layout("TL;DR comparisons", ("info", "summaries", "choice"), "comparisons", published.tldr),
    Layout("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), "comparisons", published.shp),
    Layout(
        "UltraFeedback",
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        "comparisons",
        published.pair,
    ),
    Layout("pairs", ("prompt", "chosen", "rejected"), "comparisons", published.pair),
    Layout("hh-rlhf", ("chosen", "rejected"), "comparisons", published.pair),
    Layout("pairs with votes", ("prompt", "a", "b"), "comparisons", parse_comparison),
    Layout("KTO labels", ("prompt", "completion", "label"), "labelled responses", parse_labelled),
    Layout("labels", ("prompt", "response", "label"), "labelled responses", parse_labelled),
    Layout("ratings", ("prompt", "response", "ratings"), "rated responses", parse_rated),
    Layout("Alpaca", ("instruction", "output"), "demonstrations", parse_alpaca),
    Layout("ShareGPT", ("conversations",), "demonstrations", functools.partial(parse_dialogue, field="conversations")),
    Layout("messages", ("messages",), "demonstrations", parse_dialogue),
    Layout("demonstrations", ("prompt", "response"), "demonstrations", parse_demonstration),
    Layout("completions", ("prompt", "completion"), "demonstrations", parse_demonstration),
    Layout("text", ("text",), "text", parse_text),
    Layout("prompts", ("prompt",), "prompts", parse_prompt),
)
