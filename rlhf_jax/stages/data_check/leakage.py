"""What held-out rows have in common with training rows: prompts, near-duplicates of prompts, responses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.near_duplicates import near_duplicates
from rlhf_jax.data.parts import prompt_key, same_but_for_form
from rlhf_jax.stages.data_check.finding import Finding, Kind, Section, Table, counted, places, share_of, short
from rlhf_jax.stages.data_check.table import PARTS, Rows, answers

_WORDS = 5  # a response of fewer words may be the same by chance: "Yes."


def look_at_leakage(data: Rows, show: int) -> Section | None:
    """Compare the parts that a stage would cut the rows into, and the files that were named for them.

    Args:
        data: the rows.
        show: how many places are listed for each finding.

    Returns:
        The section; None where there are too few rows for parts. Findings: prompts that stand in two files, held-out
        prompts that are near-duplicates of training prompts, held-out responses that are trained on too.
    """
    if data.parts is None or data.parts.validation is data.parts.test:
        return None
    parts = dict(zip(PARTS, data.parts[:3], strict=True))
    shared = _shared_prompts(data)
    near = _near(parts)
    said = _same_responses(parts)
    rows, findings = [], []
    for part, other, found, whole in shared:
        rows.append(
            (
                f"{part} rows whose prompt stands in {other} too, as the files are",
                f"{len(found):,}",
                share_of(len(found), whole),
            )
        )
        if found:
            text = (
                f"The prompts of {counted(len(found), f'{part} row')} stand in the {other} rows too "
                f"({share_of(len(found), whole)} of the {part} rows)."
            )
            advice = "A stage moves such rows, or warns where it cannot: take them out of one of the files."
            if data.of_task:
                advice = "The task cuts its parts itself: see that this is meant."
            kind: Kind = "note" if data.of_task else "warning"
            findings.append(Finding(kind, "leaked_prompts", text, advice, places(found, show)))
    for part in PARTS[1:]:
        for found, what, name, advice in (
            (
                near[part],
                "a prompt that is nearly one of the training rows",
                "leaked_near_duplicates",
                "Figures on them are too good: leave them out, or make such rows one prompt, which is never cut apart.",
            ),
            (
                said[part],
                "a response that training rows have too",
                "leaked_responses",
                "A model may know them by heart: leave them out of one side, and look for stock phrases.",
            ),
        ):
            whole = len(parts[part])
            rows.append((f"{part} rows with {what}", f"{len(found):,}", share_of(len(found), whole)))
            if found:
                has = "has" if len(found) == 1 else "have"
                text = (
                    f"{counted(len(found), f'{part} row')} of {whole:,} {has} {what} ({share_of(len(found), whole)})."
                )
                findings.append(
                    Finding("warning" if len(found) > 0.01 * whole else "note", name, text, advice, places(found, show))
                )
    sentences = (
        "A stage keeps the rows of a prompt together where it can, so what is looked for is what is nearly the same.",
    )
    table = Table("", ("", "rows", "share"), tuple(rows))
    figures: dict[str, Any] = {
        "shared_prompts": {f"{part} in {other}": len(found) for part, other, found, _ in shared},
        "near_duplicates": {part: len(near[part]) for part in PARTS[1:]},
        "same_responses": {part: len(said[part]) for part in PARTS[1:]},
    }
    return Section("leakage", "Leakage between parts", sentences, (table,), (), tuple(findings), figures)


def _shared_prompts(data: Rows) -> list[tuple[str, str, list[str], int]]:
    """For every two files (part, the other part, where the former's rows stand that share a prompt, all its rows)."""
    keys: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in data.rows:
        keys[row.part].append((prompt_key(row.row), row.where))
    found = []
    for index, other in enumerate(PARTS):
        for part in PARTS[index + 1 :]:
            if part in keys and other in keys:
                there = {key for key, _ in keys[other]}
                both = [where for key, where in keys[part] if key in there]
                found.append((part if "test" in keys else "held-out", other, both, len(keys[part])))
    return found


def _near(parts: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Where held-out rows stand whose prompt is nearly a training row's, and not the same."""
    homes: defaultdict[str, set[str]] = defaultdict(set)
    keyed = {name: [(prompt_key(row), str(row.where)) for row in rows] for name, rows in parts.items()}
    for name, rows in keyed.items():
        for key, _ in rows:
            homes[key].add(name)
    texts = list(homes)
    close: set[str] = set()
    for group in near_duplicates(texts):
        keys = [texts[place] for place in group]
        if any("train" in homes[key] for key in keys):
            close.update(key for key in keys if "train" not in homes[key])
    return {name: [f"{where}: {short(key)}" for key, where in keyed[name] if key in close] for name in PARTS[1:]}


def _same_responses(parts: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Where held-out rows stand with a response that a training row has too, whatever their prompts."""
    plain: dict[str, str] = {}

    def forms(row: Any) -> set[str]:
        for text in answers(row):
            if text not in plain:
                plain[text] = same_but_for_form(text) if len(text.split()) >= _WORDS else ""
        return {plain[text] for text in answers(row)} - {""}

    trained = {form for row in parts["train"] for form in forms(row)}
    found: dict[str, list[str]] = {}
    for name in PARTS[1:]:
        both = ((row, forms(row) & trained) for row in parts[name])
        found[name] = [f"{row.where}: {short(min(known))}" for row, known in both if known]
    return found
