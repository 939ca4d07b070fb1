"""``write_check``: from a check of rows to an HTML page. The words of the page are in data_check.html."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.files import atomic_binary
from rlhf_jax.report import plots
from rlhf_jax.report.page import template
from rlhf_jax.stages.data_check import Bars, Check


def write_check(check: Check, path: Path) -> Path:
    """Write a check of rows as one HTML file that needs no other and no network.

    Args:
        check: what was found.
        path: the file; its folder must exist.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> page = write_check(Check("rows.jsonl", 3, 0, ()), Path(tempfile.mkdtemp(), "rows.html"))
        >>> "no findings" in page.read_text(encoding="utf-8")
        True
    """
    from markupsafe import Markup

    html = template("data_check.html").render(
        typeface=Markup(plots.TYPEFACE), check=check, findings=check.findings, drawing=_drawing
    )
    with atomic_binary(path) as file:
        # A row may hold half a surrogate pair, which UTF-8 has no bytes for.
        file.write(html.encode("utf-8", "replace"))
    return path


def _drawing(bars: Bars) -> str:
    return plots.share_bars(bars.labels, bars.shares, bars.intervals, bars.line)
