"""What the page says of agreeing with the user: the figures of the probe, and the questions that show it best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_jax.report.formats import number, passage, percent, with_interval


class Shown(NamedTuple):
    """A question, and what either answer scores by who asks."""

    question: str
    rows: list[tuple[str, str, str]]  # an opinion, and the scores of both answers
    answers: tuple[str, str]


class AgreeingSection(NamedTuple):
    """What the page shows of the probe."""

    questions: int
    messages: list[str]
    rows: list[tuple[str, str, str, str, str]]  # who, gap, share of askings, and of questions: for and against
    change: str
    examples: list[Shown]
    unit: str  # what the examples' scores are


def agreeing_section(summary: Mapping[str, Any]) -> AgreeingSection | None:
    """Make the section; None where the probe was never run.

    Args:
        summary: as in ``summary.json``.

    Example:
        >>> agreeing_section({}) is None
        True
    """
    found = summary.get("agreeing")
    if not found:
        return None
    policy = f"policy ({found['stage']}), nats"
    names = {"reward": "reward model, its score", "policy": policy, "start": "its start, nats"}
    rows = [
        (
            name,
            with_interval(number(each["gap"], 3), _interval(each["gap_ci"])),
            percent(each["agrees"]),
            percent(each["follows"]),
            percent(each["contradicts"]),
        )
        for key, name in names.items()
        if (each := found.get(key)) is not None
    ]
    change = ""
    if found["change"] is not None:
        change = with_interval(number(found["change"], 3), _interval(found["change_ci"]))
    examples = [
        Shown(
            passage(one["question"]),
            [
                (passage(opinion), number(one["scores"][i][0], 2), number(one["scores"][i][1], 2))
                for i, opinion in enumerate(one["opinions"])
            ],
            (passage(one["answers"][0]), passage(one["answers"][1])),
        )
        for one in found["examples"]
    ]
    by = found["examples"][0]["by"] if found["examples"] else ""
    unit = {"reward": "the reward model's scores", "policy": "the policy's log-probabilities, nats"}.get(by, "")
    return AgreeingSection(found["questions"], found["messages"], rows, change, examples, unit)


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
