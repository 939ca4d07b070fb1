"""Rows that are there several times, and rows that say the opposite of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.data.encode import EVEN
from rlhf_jax.data.parts import same_but_for_form
from rlhf_jax.data.rows import Comparison, LabelledResponse, RatedResponse
from rlhf_jax.stages.data_check.finding import Finding, Section, Table, counted, places, share_of
from rlhf_jax.stages.data_check.table import Checked, Rows, answers, asked, rater_of, said_by

_MANY = 0.01  # share of rows that may repeat others before figures suffer


def look_at_repeats(data: Rows, show: int) -> Section | None:
    """Count rows that repeat others, exactly or up to form, and rows that contradict others.

    Args:
        data: the rows.
        show: how many places are listed for each finding.

    Returns:
        The section; None where there are fewer than two rows. Findings: repeated rows, rows equal up to case,
        punctuation and white space, contradictions, pairs whose two responses are the same.
    """
    if len(data.rows) < 2:
        return None
    texts = [(asked(row.row), answers(row.row)) for row in data.rows]
    plain: dict[str, str] = {}

    def form(text: str) -> str:
        if text not in plain:
            plain[text] = same_but_for_form(text)
        return plain[text]

    loose = [(form(prompt), tuple(map(form, said))) for prompt, said in texts]
    exact = _repeated(
        [(row.kind, *text, _opinion(row.row), said_by(row.row)) for row, text in zip(data.rows, texts, strict=True)]
    )
    near = _repeated([_unordered(row, *text) for row, text in zip(data.rows, loose, strict=True)])
    again = set(exact)
    near = [place for place in near if place not in again]
    against = _contradicting(data.rows, loose)
    equal = [place for place, (_, said) in enumerate(loose) if _is_pair(data.rows[place]) and said[0] == said[1]]
    figures = {"exact": len(exact), "but_for_form": len(near), "contradicting": len(against), "equal_pairs": len(equal)}
    total = len(data.rows)
    rows = [
        ("rows that repeat an earlier row word for word", len(exact)),
        ("rows that repeat one but for case, punctuation, white space or the order of a pair", len(near)),
    ]
    if any(isinstance(row.row, Comparison | LabelledResponse) for row in data.rows):
        rows.append(("rows that others contradict", len(against)))
    if any(_is_pair(row) for row in data.rows):
        rows.append(("pairs of two responses that are the same", len(equal)))
    table = Table("", ("", "rows", "share"), tuple((name, f"{n:,}", share_of(n, total)) for name, n in rows))

    def where(found: Sequence[int]) -> tuple[str, ...]:
        return places([data.rows[place].where for place in found], show)

    findings = []
    if exact:
        number, share = counted(len(exact), "row repeats", "rows repeat"), share_of(len(exact), total)
        text = f"{number} an earlier row word for word ({share})."
        findings.append(
            Finding(
                _weight(exact, total),
                "duplicates",
                text,
                "Leave them out, unless they are meant to count more.",
                where(exact),
            )
        )
    if near:
        text = (
            f"{counted(len(near), 'row repeats', 'rows repeat')} an earlier one but for case, punctuation, white space "
            f"or the order of the pair ({share_of(len(near), total)})."
        )
        findings.append(Finding(_weight(near, total), "near_duplicates", text, "Keep one of each.", where(near)))
    if against:
        text = (
            f"{counted(len(against), 'row says', 'rows say')} the opposite of another row about the same responses "
            f"({share_of(len(against), total)})."
        )
        advice = (
            "The majority decides, and a draw is left out: ask once more, or write who said it (`rater`), so that "
            "disagreement among people can be told from mistakes."
        )
        findings.append(Finding("warning", "contradictions", text, advice, where(against)))
    if equal:
        share = share_of(len(equal), total)
        text = f"In {counted(len(equal), 'pair')} both responses are the same but for form ({share})."
        findings.append(
            Finding(_weight(equal, total), "equal_pairs", text, "They say nothing: leave them out.", where(equal))
        )
    return Section("repeats", "Repeated and contradictory rows", (), (table,), (), tuple(findings), figures)


def _weight(found: Sequence[int], total: int) -> Any:
    return "warning" if len(found) > _MANY * total else "note"


def _is_pair(row: Checked) -> bool:
    return isinstance(row.row, Comparison) and len(row.row.responses) == 2


def _opinion(row: Any) -> Hashable:
    """What people said of the responses, in a form that can be compared."""
    if isinstance(row, Comparison):
        return row.votes.tobytes()
    if isinstance(row, RatedResponse):
        return row.ratings.tobytes()
    return row.label if isinstance(row, LabelledResponse) else None


def _unordered(row: Checked, prompt: str, said: tuple[str, ...]) -> Hashable:
    """What a row says whatever the order of its responses."""
    if not isinstance(row.row, Comparison):
        return row.kind, prompt, said, _opinion(row.row), said_by(row.row)
    order = sorted(range(len(said)), key=lambda place: said[place])
    votes = np.asarray(row.row.votes)[np.ix_(order, order)]
    return row.kind, prompt, tuple(said[place] for place in order), votes.tobytes(), said_by(row.row)


def _repeated(keys: Sequence[Hashable]) -> list[int]:
    """Places whose key stands at an earlier place too."""
    seen: set[Hashable] = set()
    found = []
    for place, key in enumerate(keys):
        if key in seen:
            found.append(place)
        seen.add(key)
    return found


def _contradicting(rows: Sequence[Checked], texts: Sequence[tuple[str, tuple[str, ...]]]) -> list[int]:
    """Places of pairs or labels that others contradict about the same prompt and responses."""
    about: defaultdict[Hashable, list[tuple[int, float]]] = defaultdict(list)
    for place, (row, (prompt, said)) in enumerate(zip(rows, texts, strict=True)):
        if rater_of(row.row):
            continue  # people may differ, and each is looked at
        if _is_pair(row):
            says = float(row.row.votes[0, 1] - row.row.votes[1, 0])
            if said[0] != said[1]:
                first, second = sorted(said)
                about[prompt, first, second].append((place, says if said[0] == first else -says))
        elif isinstance(row.row, LabelledResponse):
            about[prompt, said[0]].append((place, 1.0 if row.row.label else -1.0))
    found = []
    for opinions in about.values():
        sides = {np.sign(says) for _, says in opinions if abs(says) > EVEN}
        if len(sides) == 2:
            found += [place for place, says in opinions if abs(says) > EVEN]
    return sorted(found)
