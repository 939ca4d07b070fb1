"""How the page writes numbers; what a run lacks is an empty text."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point.

    Example:
        >>> number(0.12345, 2), number(-0.001, 2), number(None)
        ('0.12', '0.00', '')
    """
    # An estimate just below zero, of a KL say, is not to be read as -0.00.
    return "" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.7123)
        '71.2%'
    """
    return "" if value is None else f"{100 * value:.1f}%"


def percent_interval(interval: Sequence[float] | None) -> str:
    """The two ends of an interval of shares, in per cent.

    Example:
        >>> percent_interval([0.7, 0.725])
        '70.0 to 72.5'
    """
    return "" if not interval else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def with_interval(figure: str, interval: str) -> str:
    """A figure and its interval in brackets, if there is one.

    Example:
        >>> with_interval("71.2%", "70.0 to 72.5"), with_interval("71.2%", "")
        ('71.2% (70.0 to 72.5)', '71.2%')
    """
    return f"{figure} ({interval})" if figure and interval else figure


def change(before: float | None, after: float | None, digits: int = 2) -> str:
    """What a figure was and what it became; only the latter where the former is not known.

    Example:
        >>> change(0.1, 0.97), change(None, 0.97)
        ('0.10 → 0.97', '0.97')
    """
    if before is None or after is None:
        return number(after, digits)
    return f"{number(before, digits)} → {number(after, digits)}"


def whole(value: int | None) -> str:
    """A count.

    Example:
        >>> whole(12345), whole(None)
        ('12,345', '')
    """
    return "" if value is None else f"{value:,}"


def passage(text: object, longest: int = 2000) -> str:
    """A text by somebody else: said to be empty where it is, and cut where it is too long for a page.

    Args:
        text: a prompt or a response.
        longest: characters that are shown.

    Example:
        >>> passage(""), passage(" \\n"), passage("word " * 3, 7)
        ('(empty)', '(white space alone)', 'word wo... (8 more characters)')
    """
    shown = str(text)
    if not shown.strip():
        return "(white space alone)" if shown else "(empty)"
    return shown if len(shown) <= longest else f"{shown[:longest]}... ({len(shown) - longest:,} more characters)"
