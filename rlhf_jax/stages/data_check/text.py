"""A check as plain text: findings first, worst first, then a table for each thing that was looked at."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rlhf_jax.stages.data_check.finding import Check, Finding, Table, counted

_WIDTH = 100


def as_text(check: Check, *, rows: int = 3) -> str:
    """Write a check as a compact page of text.

    Args:
        check: what was found.
        rows: how many rows are named below a finding.

    Returns:
        The text, in which characters that cannot be printed are question marks.

    Example:
        >>> print(as_text(Check("a.jsonl", 2, 0, ())))
        a.jsonl: 2 rows, no findings.
    """
    count = len(check.findings)
    bad = f" and {counted(check.bad, 'bad row')}" if check.bad else ""
    lines = [
        f"{check.source}: {counted(check.rows, 'row')}{bad}, {counted(count, 'finding') if count else 'no findings'}."
    ]
    for finding in check.findings:
        lines += ["", *_finding(finding, rows)]
    for section in check.sections:
        lines += ["", section.title, "-" * len(section.title)]
        lines += [line for sentence in section.sentences for line in textwrap.wrap(sentence, _WIDTH)]
        for table in section.tables:
            lines += _table(table)
    # Rows are by strangers: what moves a terminal's cursor or changes its colours is not printed.
    return "\n".join("".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)


def _finding(finding: Finding, most: int) -> Iterator[str]:
    indent = " " * 9
    yield from textwrap.wrap(str(finding), _WIDTH, subsequent_indent=indent)
    # The last line says how many more there are.
    more = len(finding.rows) - most
    for row in finding.rows[:most]:
        yield f"{indent}- {row}"
    if more > 0:
        last = finding.rows[-1]
        yield (
            f"{indent}- {last}"
            if last.startswith("and ") and more == 1
            else f"{indent}- ... (--json and the page list more)"
        )


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"{table.title}:"
    cells = [table.columns, *table.rows] if any(table.columns) else list(table.rows)
    widths = [max(len(row[place]) for row in cells) for place in range(len(table.columns))] if cells else []
    for row in cells:
        first, *rest = (
            cell.rjust(width) if table.is_figures(place) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join([first, *rest]).rstrip()
    if table.left:
        yield f"  and {table.left:,} more"
