"""The table of layouts in which people publish data: the fields that tell one from the others, and who reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.layouts import published
from rlhf_jax.data.layouts.fields import Row, bad_row, names
from rlhf_jax.data.layouts.meaning import ASKED, SAID, check_meaning, left_alone
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
from rlhf_jax.data.layouts.provenance import EXPORTED, OPINIONS, PROVENANCE, with_provenance
from rlhf_jax.data.layouts.rankings import parse_ranking
from rlhf_jax.data.layouts.turns import SYSTEM, is_empty
from rlhf_jax.data.rows import texts_of


class Layout(NamedTuple):
    """One layout: what its rows are called, which fields they have and how they are read."""

    name: str
    columns: tuple[str, ...]  # fields that such a row must have; it may have others
    gives: str  # for messages
    parse: Callable[[Row, str], Any]  # to one of the types of ``rows``
    more: tuple[str, ...] = ()  # other fields that are read where they are there

    @property
    def reads(self) -> tuple[str, ...]:
        """All fields that are read where they are there; beside an opinion also who gave it."""
        return (*self.columns, *self.more, *((*PROVENANCE, *EXPORTED) if self.gives in OPINIONS else ()))


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


def unknown_fields(row: Row) -> Counter[str]:
    """Count the fields of a row that no layout knows, and that are left alone; none where no layout fits.

    Args:
        row: the fields.

    Returns:
        How often each stands there.

    Example:
        >>> unknown_fields({"prompt": "Hi.", "response": "Hello!", "source": "me"})
        Counter({'source': 1})
    """
    layout = next((layout for layout in LAYOUTS if set(layout.columns) <= row.keys()), None)
    return Counter() if layout is None else left_alone(row, layout.reads)


def read_row(row: Row, where: str, ours: Callable[[Row, str], Any], *, answered: bool = True) -> tuple[Any, Layout]:
    """Recognise the layout of a row, and read the row as the layout has it.

    Args:
        row: the fields.
        where: where the row stands.
        ours: the function for a row that has a prompt and no other known field: it says what is missing.
        answered: whether a chat needs a turn of the assistant.

    Returns:
        One of the types of ``rows``, and the layout.

    Raises:
        DataError: if no layout fits, a field is bad, or one says something that the layout does not read.
    """
    layout = recognise(row, where)
    if layout.name == _RATING and is_empty(row["rating"]):  # a response that nobody has rated is there to be imitated
        row = {key: value for key, value in row.items() if key != "rating"}
        layout = recognise(row, where)
    if any(row[column] is None for column in layout.columns):
        # Tables fill the fields that a row does not have with null, where its file holds rows of two layouts.
        there = {key: value for key, value in row.items() if value is not None}
        other = next((x for x in LAYOUTS if x.gives == layout.gives and set(x.columns) <= there.keys()), None)
        if other is not None:
            row, layout = there, other
    if layout.parse is parse_dialogue:
        found = parse_dialogue(row, where, field=layout.columns[0], answered=answered)
    else:
        found = ours(row, where) if layout.name == "prompts" else layout.parse(row, where)
    check_meaning(row, where, layout.reads, texts_of(found), (*ASKED, *SAID))
    return with_provenance(found, row, where) if layout.gives in OPINIONS else found, layout


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


_SCORES = ("score_chosen", "score_rejected")
_RATING = "one rating"
# The first whose fields are all there is a row's layout, so those with more fields come first.
LAYOUTS = (
    Layout("TL;DR comparisons", ("info", "summaries", "choice"), "comparisons", published.tldr),
    Layout(
        "SHP", ("history", "human_ref_A", "human_ref_B", "labels"), "comparisons", published.shp, ("score_A", "score_B")
    ),
    Layout("UltraFeedback", ("prompt", "chosen", "rejected", *_SCORES), "comparisons", published.pair, SYSTEM),
    Layout("pairs", ("prompt", "chosen", "rejected"), "comparisons", published.pair, (*_SCORES, *SYSTEM)),
    Layout(
        "Alpaca pairs",
        ("instruction", "chosen", "rejected"),
        "comparisons",
        published.asked_pair,
        ("input", "history", *_SCORES, *SYSTEM),
    ),
    *(
        Layout(name, (field, "chosen", "rejected"), "comparisons", published.asked_pair, (*_SCORES, *SYSTEM))
        for name, field in (("Orca", "question"), ("ShareGPT pairs", "conversations"))
    ),
    Layout("hh-rlhf", ("chosen", "rejected"), "comparisons", published.pair, (*_SCORES, *SYSTEM)),
    Layout(
        "pairs with votes", ("prompt", "a", "b"), "comparisons", parse_comparison, ("preference", "ratings", *SYSTEM)
    ),
    Layout("KTO labels", ("prompt", "completion", "label"), "labelled responses", parse_labelled, SYSTEM),
    Layout("labels", ("prompt", "response", "label"), "labelled responses", parse_labelled, SYSTEM),
    Layout("rankings", ("prompt", "responses", "ranking"), "comparisons", parse_ranking, SYSTEM),
    Layout("ratings", ("prompt", "response", "ratings"), "rated responses", parse_rated, ("rating",)),
    Layout(_RATING, ("prompt", "response", "rating"), "rated responses", parse_rated),
    Layout("Alpaca", ("instruction", "output"), "demonstrations", parse_alpaca, ("input", "history", *SYSTEM)),
    Layout("ShareGPT", ("conversations",), "demonstrations", parse_dialogue, SYSTEM),
    Layout("messages", ("messages",), "demonstrations", parse_dialogue, SYSTEM),
    Layout("demonstrations", ("prompt", "response"), "demonstrations", parse_demonstration, SYSTEM),
    Layout("completions", ("prompt", "completion"), "demonstrations", parse_demonstration, SYSTEM),
    Layout("text", ("text",), "text", parse_text),
    Layout("prompts", ("prompt",), "prompts", parse_prompt, SYSTEM),
)
