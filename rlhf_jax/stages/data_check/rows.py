"""How many rows there are, of which layouts and kinds, and which cannot be read."""

from __future__ import annotations

import re
from collections import Counter

from rlhf_jax.data.reading import is_golden
from rlhf_jax.stages.data_check.finding import Finding, Section, Table, counted, places, share_of
from rlhf_jax.stages.data_check.table import Rows

_FIELD = re.compile(r": fields? '([\w.\[\]-]+)'")
_ASIDE = "; fix the row or pass --on-bad-row skip"
_OPINIONS = ("comparisons", "labelled responses", "rated responses")


def look_at_rows(data: Rows, show: int) -> Section:
    """Count rows by layout and kind, and list the bad ones.

    Args:
        data: the rows.
        show: how many bad rows are listed.

    Returns:
        The section. Findings: bad rows, rows that say something of responses in several forms, no rows.
    """
    kinds = Counter((row.layout, row.kind) for row in data.rows)
    total = len(data.rows) + len(data.bad) + len(data.best_of)
    bad = counted(len(data.bad), "bad one") if data.bad else "none is bad"
    sentences = [f"{counted(len(data.rows), 'row')} can be used, {bad}."]
    if data.parts is not None:
        sizes = [f"{len(part):,}" for part in data.parts[:3]]
        sentences.append(
            f"A stage would train on {sizes[0]}, choose the best checkpoint on {sizes[1]} and report on {sizes[2]}."
        )
        sentences += [f"{note[0].upper()}{note[1:]}." for note in data.parts.notes]
    known = sum(is_golden(row.row) for row in data.rows)
    if known:
        sentences.append(f"{counted(known, 'row has', 'rows have')} a known answer (golden) and measure raters alone.")
    if data.unread:
        sentences.append(f"{data.unread[0].upper()}{data.unread[1:]}.")
    tables = [
        Table(
            "What they are",
            ("layout", "kind", "rows", "share"),
            tuple(
                (layout, kind, f"{count:,}", share_of(count, total)) for (layout, kind), count in kinds.most_common()
            ),
        )
    ]
    tables = tables if kinds else []
    findings = [*_bad(data, total, show), *_best_of(data, total, show), *_mixed(data)]
    if not data.rows:
        findings.append(Finding("error", "no_rows", "There is no row that can be used.", "Mend or add rows."))
    if data.bad:
        fields = Counter(_field(text) for text in data.bad)
        rows = tuple((field, f"{count:,}") for field, count in fields.most_common(show))
        tables.append(Table("Bad rows by what is wrong", ("field", "rows"), rows, max(0, len(fields) - show)))
    figures = {
        "usable": len(data.rows),
        "bad": len(data.bad),
        "best_of": len(data.best_of),
        "by_layout": dict(Counter(row.layout for row in data.rows).most_common()),
        "by_kind": dict(Counter(row.kind for row in data.rows).most_common()),
        "parts": {}
        if data.parts is None
        else dict(zip(("train", "validation", "test"), map(len, data.parts[:3]), strict=True)),
        "bad_rows": [text.removesuffix(_ASIDE) for text in data.bad[:show]],
    }
    return Section("rows", "Rows", tuple(sentences), tuple(tables), (), tuple(findings), figures)


def _bad(data: Rows, total: int, show: int) -> list[Finding]:
    if not data.bad:
        return []
    number = len(data.bad)
    text = f"{counted(number, 'row')} of {total:,} cannot be read ({share_of(number, total)})."
    advice = "A stage stops at the first: mend them, or leave them out with --on-bad-row skip."
    return [Finding("error", "bad_rows", text, advice, places([t.removesuffix(_ASIDE) for t in data.bad], show))]


def _best_of(data: Rows, total: int, show: int) -> list[Finding]:
    if not data.best_of:
        return []
    number = len(data.best_of)
    text = f"{counted(number, 'row')} of {total:,} say which of K responses are best ({share_of(number, total)})."
    advice = "`rlhf evaluate` reads them and no stage does: to train on them, write pairs, or responses with a ranking."
    return [Finding("warning", "best_of", text, advice, places(list(data.best_of), show))]


def _mixed(data: Rows) -> list[Finding]:
    """Find opinions in several forms: a stage reads one of them from a source."""
    kinds = Counter(row.kind for row in data.rows if row.kind in _OPINIONS)
    if len(kinds) < 2:
        return []
    named = " and ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    first = [next(row.where for row in data.rows if row.kind == kind) for kind in kinds]
    advice = "Reward models and preference optimisation read one kind: write a file for each."
    return [Finding("error", "mixed_kinds", f"The file mixes {named}.", advice, tuple(first))]


def _field(text: str) -> str:
    found = _FIELD.search(text)
    if found:
        return found[1]
    return "no layout fits" if "no layout fits" in text else "the row itself"
