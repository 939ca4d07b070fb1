"""What preferences follow besides what is said: length, the place of a response; and how often they are ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhf_jax.data.encode import EVEN
from rlhf_jax.evaluation import wilson
from rlhf_jax.evaluation.labels import LONGER, SKEW
from rlhf_jax.stages.data_check.finding import Bars, Finding, Section, Table, counted, share_of
from rlhf_jax.stages.data_check.pairs import Pairs, pairs_of
from rlhf_jax.stages.data_check.table import Rows
from rlhf_jax.stages.data_check.tokens import Lengths

_FEWEST = 10  # pairs that say anything
_TIES = 0.3
_SOME = 0.65  # share of pairs whose longer response is preferred, from which a note is due
# How much shorter the shorter response is than the longer one.
_BINS = (("under 10%", 0.0, 0.1), ("10 to 25%", 0.1, 0.25), ("25 to 50%", 0.25, 0.5), ("50% or more", 0.5, 1.01))


def look_at_preferences(data: Rows, lengths: Lengths) -> Section | None:
    """Measure how often the longer and the first response are preferred, and how often neither is.

    Args:
        data: the rows.
        lengths: measures a response.

    Returns:
        The section; None where no two responses are compared. Findings: nothing but ties, many ties, a preference for
        the longer response, a preference for one place.
    """
    pairs = pairs_of(data, lengths.of)
    if not len(pairs.share):
        return None
    tied = np.abs(pairs.share - 0.5) <= EVEN
    findings: list[Finding] = []
    sentences = []
    if pairs.drawn:
        sentences.append(
            "The rows hold opinions of single responses: rated ones are paired at random within their prompt, and "
            "thumbs up with thumbs down, each response at most once."
        )
    ties = int(tied.sum())
    sentences.append(f"{ties:,} of {counted(len(tied), 'pair')} are ties ({share_of(ties, len(tied))}).")
    if ties == len(tied):
        text = "Every pair is a tie."
        findings.append(Finding("error", "all_ties", text, "There is nothing to prefer: collect opinions that differ."))
    elif ties > _TIES * len(tied) and len(tied) >= _FEWEST:
        text = f"{share_of(ties, len(tied))} of the pairs are ties."
        advice = "They teach little: show raters responses that differ more, or ask how much better one is."
        findings.append(Finding("note", "many_ties", text, advice))
    table, bars, longer = _length(pairs, tied, lengths.unit, findings)
    rows, first = _place(pairs, tied, findings)
    tables = [table, *([rows] if rows else [])]
    figures = {"pairs": len(tied), "ties": ties, "longer_preferred": longer, "first_preferred": first}
    return Section(
        "preferences", "What preferences follow", tuple(sentences), tuple(tables), (bars,), tuple(findings), figures
    )


def _length(pairs: Pairs, tied: np.ndarray, unit: str, findings: list[Finding]) -> tuple[Table, Bars, dict[str, Any]]:
    longer = np.sign(pairs.lengths[:, 0] - pairs.lengths[:, 1])
    decided = (longer != 0) & ~tied
    wins = (np.sign(pairs.share - 0.5) == longer)[decided]
    shorter_by = 1 - pairs.lengths.min(axis=1) / np.maximum(pairs.lengths.max(axis=1), 1)
    cuts = [("all", np.ones(len(wins), bool))]
    cuts += [(name, (shorter_by[decided] >= low) & (shorter_by[decided] < high)) for name, low, high in _BINS]
    found = [(name, int(wins[chosen].sum()), int(chosen.sum())) for name, chosen in cuts]
    table = Table(
        f"How often the longer response ({unit}) is preferred, by how much shorter the other is",
        ("difference", "pairs", "longer preferred", "95% interval"),
        tuple((name, f"{n:,}", *_written(won, n)) for name, won, n in found if n or name == "all"),
    )
    shown = [(name, won, n) for name, won, n in found if n]
    bars = Bars(
        "How often the longer response is preferred, by how much shorter the other is; dashed: as often as not",
        tuple(f"{name} ({n:,})" for name, _, n in shown),
        tuple(won / n for _, won, n in shown),
        tuple(wilson(won, n) for _, won, n in shown),
        0.5,
    )
    _, won, n = found[0]
    if n >= _FEWEST:
        share, low = won / n, wilson(won, n)[0]
        text = f"The longer response is preferred in {_with_interval(won, n)} of {counted(n, 'pair')}."
        advice = (
            "A reward model learns length first and a policy then writes longer: add pairs whose shorter response is "
            "preferred, and compare figures by length."
        )
        if share > LONGER:
            findings.append(Finding("warning", "length_bias", text, advice))
        elif share > _SOME and low > 0.5:
            findings.append(Finding("note", "length_bias", text, advice))
        elif share < 1 - LONGER:
            text = f"The shorter response is preferred in {_with_interval(n - won, n)} of {counted(n, 'pair')}."
            advice = "A policy learns to say less: add pairs whose longer response is preferred."
            findings.append(Finding("warning", "length_bias", text, advice))
    return table, bars, _figures(won, n)


def _place(pairs: Pairs, tied: np.ndarray, findings: list[Finding]) -> tuple[Table | None, dict[str, Any]]:
    """Measure how often the first response of a row is preferred, where the order of the two could have been any."""
    asked = pairs.ordered & ~tied
    n = int(asked.sum())
    if not n:
        return None, {}
    won = int((pairs.share[asked] > 0.5).sum())
    table = Table(
        "How often the first response of a row is preferred",
        ("", "pairs", "first preferred", "95% interval"),
        (("pairs with a majority", f"{n:,}", *_written(won, n)),),
    )
    low, high = wilson(won, n)
    if n >= _FEWEST and abs(won / n - 0.5) > SKEW and not low <= 0.5 <= high:
        text = f"The first response of a row is preferred in {_with_interval(won, n)} of {counted(n, 'pair')}."
        advice = (
            "Raters may have seen them in a fixed order, and a model that learns the order looks accurate: shuffle the "
            "two before they are rated."
        )
        findings.append(Finding("warning", "position_bias", text, advice))
    return table, _figures(won, n)


def _figures(won: int, n: int) -> dict[str, Any]:
    return {"share": won / n if n else None, "ci": list(wilson(won, n)), "n": n}


def _written(won: int, n: int) -> tuple[str, str]:
    low, high = wilson(won, n)
    return (f"{won / n:.1%}", f"{100 * low:.1f} to {100 * high:.1f}") if n else ("", "")


def _with_interval(won: int, n: int) -> str:
    low, high = wilson(won, n)
    return f"{won / n:.0%} ({100 * low:.0f} to {100 * high:.0f})"
