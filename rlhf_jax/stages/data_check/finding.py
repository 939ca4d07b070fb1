"""What a check of rows answers: findings, worst first, and sections of sentences and tables behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["error", "warning", "note"]
_FIGURE = 16  # characters of a figure with its interval or its count; what is longer is text
ORDER: tuple[Kind, ...] = ("error", "warning", "note")


class Finding(NamedTuple):
    """One thing that is wrong or odd, what to do about it, and rows that show it."""

    kind: Kind  # "error": a stage stops at it, or would learn nothing; "warning": figures or the policy suffer
    name: str  # the same in every check, for scripts
    text: str  # a sentence
    advice: str  # a sentence
    rows: tuple[str, ...] = ()  # where the first of the rows stand, with what is wrong there where that differs

    def __str__(self) -> str:
        return f"{self.kind.upper():<8} {self.text} {self.advice}"


class Table(NamedTuple):
    """A table: what its columns are called, and rows of cells that are written already."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 0  # rows that are left out

    def without_empty(self) -> Table:
        """Leave out the columns in which nothing stands."""
        there = [place for place in range(len(self.columns)) if any(row[place] for row in self.rows)]
        rows = tuple(tuple(row[place] for place in there) for row in self.rows)
        return self._replace(columns=tuple(self.columns[place] for place in there), rows=rows)

    def is_figures(self, place: int) -> bool:
        """Whether a column holds figures, which stand below each other at their ends."""
        cells = [row[place] for row in self.rows if row[place]]
        plain = (cell[0] in "0123456789-" or cell.startswith(("under", "over")) for cell in cells)
        return place > 0 and all(plain) and max(map(len, cells), default=0) <= _FIGURE


class Bars(NamedTuple):
    """A drawing: one bar of a share a row, with its interval where there is one, and a line to compare with."""

    title: str
    labels: tuple[str, ...]
    shares: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    line: float | None = None


class Section(NamedTuple):
    """What was found out about one thing, whether it is as it should be or not."""

    name: str  # the same in every check, for scripts and for links
    title: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    bars: tuple[Bars, ...] = ()
    findings: tuple[Finding, ...] = ()
    figures: dict[str, Any] = {}  # numbers as they are, for --json  # noqa: RUF012


class Check(NamedTuple):
    """All that is known of a file."""

    source: str
    rows: int  # good ones
    bad: int
    sections: tuple[Section, ...]

    @property
    def findings(self) -> list[Finding]:
        """All findings, worst first; among equals in the order of the sections."""
        found = [finding for section in self.sections for finding in section.findings]
        return sorted(found, key=lambda finding: ORDER.index(finding.kind))

    def to_json(self) -> dict[str, Any]:
        """Write it as one JSON object.

        Returns:
            ``source``, ``findings``, and the figures of every section by its name.
        """
        return {
            "source": self.source,
            "findings": [finding._asdict() for finding in self.findings],
            **{section.name: section.figures for section in self.sections},
        }


def share_of(part: float, whole: float) -> str:
    """Write a part of a whole in per cent; more than none is never written as none, nor less than all as all.

    Example:
        >>> share_of(1, 3), share_of(1, 80), share_of(1, 100_000), share_of(0, 5), share_of(99_999, 100_000)
        ('33%', '1.2%', 'under 0.1%', '0%', 'over 99.9%')
    """
    if not whole or not part or part == whole:
        return "100%" if part and whole else "0%"
    percent = 100 * part / whole
    if percent < 0.1:
        return "under 0.1%"
    if percent > 99.9:
        return "over 99.9%"
    return f"{percent:.1f}%" if percent < 9.95 or percent > 99 else f"{percent:.0f}%"


def counted(number: int, what: str, many: str = "") -> str:
    """Write a count and what is counted.

    Example:
        >>> counted(1, "row"), counted(1200, "row"), counted(2, "reply", "replies")
        ('1 row', '1,200 rows', '2 replies')
    """
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def short(text: str, longest: int = 60) -> str:
    """Show the beginning of a text on one line.

    Example:
        >>> short("one  two\\nthree", 9)
        'one tw...'
    """
    plain = " ".join(text.split())
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."


def places(where: Sequence[str], most: int) -> tuple[str, ...]:
    """List the first places, and say how many more there are."""
    return (*where[:most], *([f"and {len(where) - most:,} more"] if len(where) > most else []))
