"""Raters: how many rows each gave, how far they agree with each other and with known answers, and since when."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import feedback
from rlhf_jax.data.raters import LabelTable, PairKey, label_of, label_table, pair_key
from rlhf_jax.data.rows import Comparison, LabelledResponse, RatedResponse
from rlhf_jax.evaluation import wilson
from rlhf_jax.stages.data_check import rater_faults
from rlhf_jax.stages.data_check.finding import Bars, Finding, Section, Table, counted, short
from rlhf_jax.stages.data_check.table import Rows, rater_of

_MOST_RATED = 50  # ratings by one rater of one prompt: their pairs grow with the square


def look_at_raters(data: Rows, show: int) -> Section | None:
    """Measure raters and their agreement, overall and over time.

    Args:
        data: the rows.
        show: how many raters are listed, those who agree least first.

    Returns:
        The section; None where no row names a rater, and none has several ratings. Findings: raters who agree too
        little with the others or with known answers, who drift, prefer one place or contradict
        themselves, low agreement, agreement that falls.
    """
    named = [row.row for row in data.rows if rater_of(row.row)]
    pairs = _usable(named)
    if not pairs:
        return _unnamed(data)
    table = label_table(pairs)
    report = feedback.rater_report(table.labels, table.times, table.golden)
    several = int(((table.labels >= 0).sum(1) > 1).sum())
    counts = Counter(rater_of(row) for row in named)
    first, own = _first_preferred(pairs), _with_themselves(pairs)
    findings: list[Finding] = []
    sentences = [
        f"{counted(len(counts), 'rater')} gave {counted(len(named), 'row')} about {counted(len(table.items), 'pair')}, "
        f"{several:,} of them with several raters and {int((table.golden >= 0).sum()):,} with a known answer."
    ]
    if np.isfinite(report.alpha):
        sentences.append(
            f"Krippendorff's alpha is {report.alpha:.2f} (1 is full agreement, 0 what chance would give; a tie lies "
            "halfway)."
        )
    elif not several:
        sentences.append("No pair has two raters, so nothing is known of their agreement: let some pairs overlap.")
    findings += rater_faults.agreement(report.alpha, several)
    findings += rater_faults.poor(table)
    findings += rater_faults.drifting(table, report.drift)
    findings += rater_faults.one_sided(first)
    findings += rater_faults.inconsistent(own)
    order = np.argsort(np.where(np.isnan(report.others), 2.0, report.others), kind="stable")
    listed = order[:show]
    rows = tuple(
        (
            short(table.raters[k], 30),
            f"{report.n[k]:,}",
            _share(report.others[k], report.others_n[k]),
            _share(report.golden[k], report.golden_n[k]),
            _share(report.drift.early[k], report.drift.early_n[k]),
            _share(report.drift.late[k], report.drift.late_n[k]),
            _share(*own.get(table.raters[k], (np.nan, 0))),
            _share(*first.get(table.raters[k], (np.nan, 0))),
        )
        for k in listed
    )
    columns = (
        "rater",
        "pairs",
        "with the others",
        "with known answers",
        "early",
        "late",
        "with themselves",
        "first preferred",
    )
    title = "Agreement of each rater, lowest first (on how many pairs)"
    tables = [Table(title, columns, rows, len(order) - len(listed)).without_empty()]
    by_time = feedback.by_period(table.labels, table.times)
    if len(by_time.start) > 1:
        tables.append(_periods(by_time))
        findings += rater_faults.falling(by_time, several)
    figures = {
        "alpha": _or_none(report.alpha),
        "pairs": len(table.items),
        "several": several,
        "raters": {
            rater: {
                "pairs": int(report.n[k]),
                "with_others": _or_none(report.others[k]),
                "with_golden": _or_none(report.golden[k]),
                "early": _or_none(report.drift.early[k]),
                "late": _or_none(report.drift.late[k]),
                "with_themselves": own[rater][0] if rater in own else None,
                "weight": _or_none(report.weight[k]),
            }
            for k, rater in enumerate(table.raters)
        },
        "alpha_by_period": [_or_none(alpha) for alpha in by_time.alpha],
    }
    return Section(
        "raters", "Raters", tuple(sentences), tuple(tables), _bars(table, report, listed), tuple(findings), figures
    )


def _usable(named: Sequence[Any]) -> list[Any]:
    """Take the rows whose pairs can be laid out: comparisons, and ratings of a prompt that are not too many."""
    rated = Counter((row.prompt, rater_of(row)) for row in named if isinstance(row, RatedResponse))
    return [
        row
        for row in named
        if isinstance(row, Comparison)
        or (isinstance(row, RatedResponse) and 1 < rated[row.prompt, rater_of(row)] <= _MOST_RATED)
    ]


def _unnamed(data: Rows) -> Section | None:
    """Measure agreement on single responses: their ratings by several people, whether they are named or not."""
    ratings = [np.asarray(given, np.float64) for given in _ratings(data) if len(given) > 1]
    if not ratings or len(np.unique(np.concatenate(ratings))) < 2:
        return None
    alpha = feedback.krippendorff_alpha(ratings)
    number = sum(map(len, ratings))
    sentences = (
        f"{counted(len(ratings), 'response has', 'responses have')} opinions of several people, {number:,} in all.",
        f"Krippendorff's alpha (interval) is {alpha:.2f}: 1 is full agreement, 0 what chance would give.",
    )
    findings = rater_faults.agreement(alpha, len(ratings))
    return Section("raters", "Raters", sentences, (), (), tuple(findings), {"alpha": alpha, "several": len(ratings)})


def _ratings(data: Rows) -> list[list[float]]:
    """What people gave each response, in one row or in several; a named rater's thumb is 1 or 0."""
    found: defaultdict[Hashable, list[float]] = defaultdict(list)
    for place, checked in enumerate(data.rows):
        row, given = checked.row, checked.fields.get("ratings")
        if isinstance(row, RatedResponse):
            found[row.prompt, row.response] += row.ratings.tolist()
        elif isinstance(row, LabelledResponse) and rater_of(row):
            found[row.prompt, row.response].append(float(row.label))
        elif isinstance(row, Comparison) and isinstance(given, Mapping):
            found[place, "a"], found[place, "b"] = list(given["a"]), list(given["b"])
    return list(found.values())


def _first_preferred(rows: Sequence[Any]) -> dict[str, tuple[float, int]]:
    """How often each rater prefers the first response of a row, where its order could have been any."""
    won: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if isinstance(row, Comparison) and len(row.responses) == 2 and not row.chosen_first:
            lead = float(row.votes[0, 1] - row.votes[1, 0])
            if lead:
                won[rater_of(row)].append(lead > 0)
    return {rater: (float(np.mean(sides)), len(sides)) for rater, sides in won.items()}


def _with_themselves(rows: Sequence[Any]) -> dict[str, tuple[float, int]]:
    """How often each rater repeats their first answer where they are asked about a pair again."""
    first: dict[tuple[str, PairKey], int] = {}
    same: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if isinstance(row, Comparison) and len(row.responses) == 2:
            key, turned = pair_key(row.prompt, *row.responses)
            share = float(row.votes[0, 1] / max(float(row.votes[0, 1] + row.votes[1, 0]), 1e-9))
            label, rater = label_of(1 - share if turned else share), rater_of(row)
            if (rater, key) in first:
                same[rater].append(label == first[rater, key])
            first.setdefault((rater, key), label)
    return {rater: (float(np.mean(found)), len(found)) for rater, found in same.items()}


def _periods(found: feedback.Periods) -> Table:
    rows = tuple(
        (
            f"from {datetime.datetime.fromtimestamp(start, datetime.UTC):%Y-%m-%d %H:%M}",
            f"{int(found.n[place].sum()):,}",
            "" if np.isnan(found.alpha[place]) else f"{found.alpha[place]:.2f}",
        )
        for place, start in enumerate(found.start)
    )
    return Table("Agreement over time (UTC)", ("period", "labels", "alpha"), rows)


def _bars(table: LabelTable, report: feedback.RaterReport, listed: np.ndarray) -> tuple[Bars, ...]:
    shown = [int(k) for k in listed if report.others_n[k]]
    if not shown:
        return ()
    labels = tuple(f"{short(table.raters[k], 24)} ({report.others_n[k]:,})" for k in shown)
    shares, numbers = [float(report.others[k]) for k in shown], [int(report.others_n[k]) for k in shown]
    ends = tuple(wilson(share * n, n) for share, n in zip(shares, numbers, strict=True))
    return (
        Bars(
            "Agreement with the majority of the others; dashed: what guessing would give",
            labels,
            tuple(shares),
            ends,
            0.5,
        ),
    )


def _share(share: float, n: int) -> str:
    return f"{share:.0%} ({n:,})" if n else ""


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
