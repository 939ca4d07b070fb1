"""What policies answered: before and after training, and to the same prompts at every evaluation of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.report.formats import number, passage
from rlhf_jax.report.run_folder import Row

# Enough to read; samples.jsonl has them all.
COMPARED, STEPS, PROMPTS = 32, 10, 4
_PLACE = ("stage", "step", "prompt", "response")
_TITLES = {"kl": "KL, nats", "vader": "VADER"}


class OverSteps(NamedTuple):
    """The responses to one prompt, a row an evaluation."""

    prompt: str
    scores: list[str]  # titles of the columns after the response
    rows: list[dict[str, Any]]  # step, response, cells, best: whether this step's parameters were kept
    left_out: bool


def comparison(rows: Sequence[Row]) -> list[Row]:
    """The rows of the final comparison alone.

    Example:
        >>> comparison([{"prompt": "p", "before": "b", "after": "a"}, {"stage": "ppo", "step": 0, "prompt": "p"}])
        [{'prompt': 'p', 'before': 'b', 'after': 'a'}]
    """
    return [row for row in rows if "step" not in row]


def before_and_after(rows: Sequence[Row]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The first samples of each domain in turn, so that none is crowded out, in groups by domain.

    Args:
        rows: those of the final comparison.

    Returns:
        (domain, rows) with ``prompt``, ``before`` and ``after`` as they are shown, and ``before_scores`` and
        ``after_scores``, (name, number) of the reward and of every judge.

    Example:
        >>> row = {"prompt": "p", "before": "b", "after": "", "short_before": -1.0, "short_after": 0.0}
        >>> before_and_after([row])[0][1][0]["after"], before_and_after([row])[0][1][0]["after_scores"]
        ('(empty)', [('short', '0.00')])
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get("domain") or ""), []).append(row)
    each = -(-COMPARED // max(1, len(groups)))
    known = dict.fromkeys(name.removesuffix("_after") for row in rows for name in row if name.endswith("_after"))
    names = sorted(known, key=lambda name: {"proxy": 0, "gold": 1}.get(name, 2))
    return [
        (domain, [_compared(row, names) for row in members[:each]])
        for domain, members in list(groups.items())[:COMPARED]
    ]


def _compared(row: Row, names: Sequence[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"prompt": passage(row.get("prompt", ""))}
    for when in ("before", "after"):
        found = [(_TITLES.get(name, name), number(row.get(f"{name}_{when}"), 2)) for name in names]
        shown |= {when: passage(row.get(when, "")), f"{when}_scores": [score for score in found if score[1]]}
    return shown


def over_steps(rows: Sequence[Row], stage: str, best_step: int | None = None) -> list[OverSteps]:
    """How a stage's responses to the same prompts change while it trains.

    Args:
        rows: all that samples.jsonl holds.
        stage: whose evaluations.
        best_step: whose parameters the stage left, if that is known.

    Returns:
        A table a prompt: the first evaluation, the last, the best one, and others spread between them.

    Example:
        >>> at = {"stage": "ppo", "prompt": "The cat"}
        >>> log = [{**at, "step": 0, "response": "sat", "kl": 0.0}, {**at, "step": 9, "response": "ran", "kl": 1.5}]
        >>> table = over_steps(log, "ppo", best_step=9)[0]
        >>> table.scores, [(row["step"], row["response"], row["cells"], row["best"]) for row in table.rows]
        (['KL, nats'], [(0, 'sat', ['0.00'], False), (9, 'ran', ['1.50'], True)])
    """
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("stage") == stage and isinstance(row.get("step"), int):
            by_prompt.setdefault(str(row.get("prompt", "")), []).append(row)
    return [_table(prompt, members, best_step) for prompt, members in list(by_prompt.items())[:PROMPTS]]


def _table(prompt: str, rows: Sequence[Row], best_step: int | None) -> OverSteps:
    scores = [name for row in rows for name, value in row.items() if isinstance(value, int | float)]
    names = [name for name in dict.fromkeys(scores) if name not in _PLACE]
    # What a person looks for first: what was trained on, who judges, what it cost.
    first = [name for name in ("proxy", "gold") if name in names]
    names = [*first, *(n for n in names if n not in (*first, "kl")), *(["kl"] if "kl" in names else [])]
    shown = _spread(sorted(rows, key=lambda row: row["step"]), best_step)
    return OverSteps(
        passage(prompt),
        [_TITLES.get(name, name) for name in names],
        [
            {
                "step": row["step"],
                "response": passage(row.get("response", "")),
                "cells": [number(row.get(name), 2) for name in names],
                "best": row["step"] == best_step,
            }
            for row in shown
        ],
        len(shown) < len(rows),
    )


def _spread(rows: Sequence[Row], best_step: int | None) -> list[Row]:
    """As many rows as a person reads, in their order."""
    if len(rows) <= STEPS:
        return list(rows)
    kept = {round(i * (len(rows) - 1) / (STEPS - 1)) for i in range(STEPS)}
    return [row for i, row in enumerate(rows) if i in kept or row["step"] == best_step]
