"""What the page says the policy found: forms that rose with the reward, and length, beside responses that show them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.evaluation.monitors import LengthShare, Pattern, Rise, named, spans
from rlhf_jax.report.formats import number, passage, percent, percent_interval, with_interval
from rlhf_jax.report.run_folder import Row
from rlhf_jax.stages.monitors import monitor

SHOWN = 2  # responses beside a finding
_LONGEST = 600  # characters of a response
_AROUND = 200  # characters before the first mark, where a response is cut
# A part of the gain below which length is not worth an example.
_WORTH = 0.25


class Piece(NamedTuple):
    """A part of a text, and whether it is what was found."""

    text: str
    marked: bool


class Shown(NamedTuple):
    """A response that shows a finding."""

    prompt: str
    pieces: list[Piece]
    reward: str


class Example(NamedTuple):
    """Responses that show something, and what."""

    what: str
    samples: list[Shown]


class Finding(NamedTuple):
    """One row of the table, and the responses below it."""

    what: str
    before: str
    after: str
    reward_with: str
    reward_without: str
    starred: bool  # whether the responses without it are those from before
    samples: list[Shown]


class Findings(NamedTuple):
    """Everything about what a policy found."""

    compared: int
    rises: list[Finding]
    length: str  # sentences
    longer: list[Example]  # responses whose length changed most, where length explains the gain


def findings_section(figures: Mapping[str, Any], rows: Sequence[Row], judge: str = "gold") -> Findings | None:
    """Make what the page shows of a stage.

    Args:
        figures: its part of the summary; one of an earlier version has no ``monitors``, which are then made here.
        rows: the final comparison, if samples.jsonl has this stage's; empty otherwise.
        judge: the judge that decides.

    Returns:
        The section; None where there was no reward, or too little to compare.
    """
    found = figures["monitors"] if "monitors" in figures else monitor(rows, judge)
    if not found:
        return None
    length = LengthShare(**found["length"])
    return Findings(
        found["compared"],
        _found([Rise(**rise) for rise in found["rises"]], rows),
        _length(length),
        _longer(length, rows),
    )


def pieces(text: str, pattern: Pattern) -> list[Piece]:
    """Cut a response into what is marked and what is not, about the first mark where it is too long for the page.

    Example:
        >>> [piece.text for piece in pieces("No. As an AI, no.", Pattern("words", "as an ai")) if piece.marked]
        ['As an AI']
    """
    if not text.strip():
        return [Piece(passage(text), pattern.kind == "empty")]
    places = spans(text, pattern)
    start = max(0, places[0][0] - _AROUND) if places and places[0][1] > _LONGEST else 0
    end = min(len(text), start + _LONGEST)
    found, at = [Piece("... ", False)] if start else [], start
    for begin, stop in places:
        if begin >= end:
            break
        found += [Piece(text[at:begin], False), Piece(text[begin : min(stop, end)], True)]
        at = min(stop, end)
    rest = text[at:end] + (f"... ({len(text) - end:,} more characters)" if end < len(text) else "")
    return [piece for piece in (*found, Piece(rest, False)) if piece.text]


def _found(rises: Sequence[Rise], rows: Sequence[Row]) -> list[Finding]:
    """The findings with the responses that got most reward for them; no response stands beside two of them."""
    left = sorted(rows, key=lambda row: -(row.get("proxy_after") or 0.0))
    found = []
    for rise in rises:
        pattern = Pattern(rise.kind, rise.text)
        holders = (i for i, row in enumerate(left) if spans(str(row.get("after", "")), pattern))
        taken = list(itertools.islice(holders, SHOWN))
        samples = [_shown(left[i], pieces(str(left[i]["after"]), pattern)) for i in taken]
        left = [row for i, row in enumerate(left) if i not in taken]
        found.append(
            Finding(
                named(rise),
                f"{rise.before:,} ({percent(rise.before / rise.of)})",
                f"{rise.after:,} ({percent(rise.after / rise.of)})",
                number(rise.reward_with, 2),
                number(rise.reward_without, 2) + ("" if rise.inside else " *"),
                not rise.inside,
                samples,
            )
        )
    return found


def _length(length: LengthShare) -> str:
    if length.r2 is None and length.r2_before is None:
        return "Length or reward is the same for all responses of a policy, so length explains nothing of the reward."
    inside = [
        f"{percent(r2)} among the {whose} policy's responses"
        for r2, whose in ((length.r2_before, "starting"), (length.r2, "trained"))
        if r2 is not None
    ]
    grown = f"from {number(length.length_before, 0)} to {number(length.length_after, 0)} characters"
    if length.share is None:
        gained = f"The reward did not rise for sure, so there is no share of its gain; responses went {grown}."
    else:
        share = with_interval(percent(length.share), percent_interval(length.share_ci))
        gained = (
            f"Responses went {grown}, which alone gives {share} of the {number(length.gain, 2)} that the reward gained."
        )
    return f"Of the variance of the reward length explains {' and '.join(inside)}. {gained}"


def _longer(length: LengthShare, rows: Sequence[Row]) -> list[Example]:
    """The response that changed most in the direction in which length was rewarded, before and after."""
    if length.share is None or length.share < _WORTH or not rows:
        return []
    sign = 1 if length.length_after > length.length_before else -1
    row = max(rows, key=lambda row: sign * (len(str(row.get("after", ""))) - len(str(row.get("before", "")))))
    return [
        Example(
            f"length, {when}",
            [
                Shown(
                    passage(row["prompt"]),
                    [Piece(passage(row[when], _LONGEST), False)],
                    number(row[f"proxy_{when}"], 2),
                )
            ],
        )
        for when in ("before", "after")
    ]


def _shown(row: Row, parts: list[Piece]) -> Shown:
    return Shown(passage(row.get("prompt", "")), parts, number(row.get("proxy_after"), 2))
