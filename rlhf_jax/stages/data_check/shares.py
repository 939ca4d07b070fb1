"""How the rows divide by the fields that say where they come from, and whether labels lean to one side."""

from __future__ import annotations

from collections import Counter

from rlhf_jax.data.rows import LabelledResponse
from rlhf_jax.stages.data_check.finding import Finding, Section, Table, share_of, short
from rlhf_jax.stages.data_check.table import Checked, Rows

FIELDS = ("source", "round", "domain", "subset", "category", "task", "language", "split")
_SKEWED = 0.9  # share of one value, where there are others, from which there is something to say
_FEWEST = 20


def look_at_shares(data: Rows, show: int) -> Section | None:
    """Count rows by source, round, domain and the like, and by label.

    Args:
        data: the rows.
        show: how many values of each field are listed.

    Returns:
        The section; None where rows have none of these. Findings: one value or label with more than nine tenths of
        the rows.
    """
    tables, findings, figures = [], [], {}
    labels = Counter("up" if row.row.label else "down" for row in data.rows if isinstance(row.row, LabelledResponse))
    if labels:
        tables.append(_table("By label", labels, show))
        figures["label"] = dict(labels)
        side, count = labels.most_common(1)[0]
        if len(labels) == 1:
            text = f"All {count:,} labels are thumbs {side}."
            advice = "A policy learns from the difference: add the other side."
            findings.append(Finding("error", "one_label", text, advice))
        elif labels.total() >= _FEWEST and count > _SKEWED * labels.total():
            text = f"{share_of(count, labels.total())} of the labels are thumbs {side}."
            findings.append(
                Finding("warning", "skewed_labels", text, "Add responses with the other thumb, or weigh the sides.")
            )
    for field in FIELDS:
        found = Counter(_value(row, field) for row in data.rows)
        if not set(found) - {""}:
            continue
        tables.append(_table(f"By {field}", found, show))
        figures[field] = dict(found.most_common())
        value, count = found.most_common(1)[0]
        if len(found) > 1 and found.total() >= _FEWEST and count > _SKEWED * found.total():
            text = f"{share_of(count, found.total())} of the rows have {field} {short(value) or '(none)'!r}."
            advice = "Figures are figures on it: look at them by that field, or collect more on the others."
            findings.append(Finding("note", f"skewed_{field}", text, advice))
    return (
        Section("shares", "Where rows come from", (), tuple(tables), (), tuple(findings), figures) if tables else None
    )


def _value(row: Checked, field: str) -> str:
    value = row.fields.get(field)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _table(title: str, found: Counter[str], show: int) -> Table:
    rows = tuple(
        (short(value) or "(none)", f"{count:,}", share_of(count, found.total()))
        for value, count in found.most_common(show)
    )
    return Table(title, ("", "rows", "share"), rows, max(0, len(found) - show))
