"""How long rows are, which are far longer than the others or than a stage reads, and which say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.errors import DataError
from rlhf_jax.stages.data_check.finding import Finding, Section, Table, counted, places, share_of
from rlhf_jax.stages.data_check.table import Rows, answers, asked
from rlhf_jax.stages.data_check.tokens import Lengths

_FAR = 20  # times the median, and
_LONG = 4000  # characters, from which a row is very long
_QUANTILES = (0, 50, 90, 99, 100)


def look_at_lengths(data: Rows, lengths: Lengths, max_length: int, show: int) -> Section | None:
    """Measure prompts, responses and rows, and find those that are too long, or have no letter or number in them.

    Args:
        data: the rows.
        lengths: measures texts.
        max_length: the most tokens of a row that a stage reads; heeded where tokens are counted.
        show: how many places are listed for each finding.

    Returns:
        The section; None where there are no rows. Findings: rows above ``max_length``, rows that a chat template
        refuses, rows that are far longer than the others, texts without a word.
    """
    if not data.rows:
        return None
    whole, refused = [], []
    for row in data.rows:
        try:
            whole.append(lengths.of_row(row.row))
        except DataError as error:
            whole.append(0)
            refused.append(str(error))
    prompts = [lengths.of(text) for row in data.rows if (text := asked(row.row))]
    said = [lengths.of(text) for row in data.rows for text in answers(row.row)]
    named = (
        ("prompts", prompts),
        ("responses", said),
        ("rows, prompt and longest response" if lengths.unit == "tokens" else "whole rows", whole),
    )
    table = Table(
        f"Lengths in {lengths.unit}",
        ("", "number", "shortest", "median", "9 of 10 are below", "99 of 100", "longest"),
        tuple((name, f"{len(sizes):,}", *_quantiles(sizes)) for name, sizes in named if sizes),
    )
    findings = []
    wheres = [row.where for row in data.rows]
    if lengths.unit == "tokens":
        cut = [f"{wheres[i]}: {size:,.0f} tokens" for i, size in enumerate(whole) if size > max_length]
        if cut:
            number = counted(len(cut), "row has", "rows have")
            text = f"{number} more than {max_length:,} tokens ({share_of(len(cut), len(whole))})."
            advice = "A stage stops at the first: raise --data.max-length, shorten them, or pass --on-bad-row skip."
            findings.append(Finding("error", "too_long", text, advice, places(cut, show)))
    else:
        limit = max(_LONG, _FAR * float(np.median(whole)))
        far = [f"{wheres[i]}: {size:,} characters" for i, size in enumerate(whole) if size > limit]
        if far:
            text = f"{counted(len(far), 'row is', 'rows are')} more than {_FAR} times as long as the median."
            advice = "See whether several rows ran together; --tokenizer RUN counts tokens and what does not fit."
            findings.append(Finding("warning", "very_long", text, advice, places(far, show)))
    if refused:
        text = f"The chat template refuses {counted(len(refused), 'row')}."
        findings.append(Finding("error", "refused", text, "Mend them, or use --chat False.", places(refused, show)))
    empty = [
        row.where for row in data.rows if any(not _says(text) for text in (asked(row.row) or "x", *answers(row.row)))
    ]
    if empty:
        text = f"In {counted(len(empty), 'row')} a prompt or a response is punctuation and white space alone."
        findings.append(
            Finding("warning", "empty", text, "See what was lost, and leave such rows out.", places(empty, show))
        )
    figures = {
        "unit": lengths.unit,
        **{
            name: dict(zip(map(str, _QUANTILES), np.percentile(sizes, _QUANTILES).tolist(), strict=True))
            for name, sizes in zip(("prompts", "responses", "rows"), (prompts, said, whole), strict=True)
            if sizes
        },
        "too_long": sum(size > max_length for size in whole) if lengths.unit == "tokens" else None,
        "empty": len(empty),
    }
    return Section("lengths", "Lengths", (), (table,), (), tuple(findings), figures)


def _quantiles(sizes: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:,.0f}" for value in np.percentile(sizes, _QUANTILES))


def _says(text: str) -> bool:
    """Whether there is anything but punctuation and white space: a letter, a number, or an emoji."""
    return any(
        letter.isalnum() or (not letter.isascii() and letter.isprintable() and not letter.isspace()) for letter in text
    )
