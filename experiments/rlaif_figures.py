"""What ``rlaif.py`` reports: how good labels are, what their judge prefers, how good policies are; tables and figure.

Not an experiment itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax import evaluation

Row = dict[str, Any]
Figure = tuple[float, tuple[float, float]]
"""A figure with its 95% interval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """How good the labels of one judge on one set of pairs are, and what it prefers besides what is better."""

    name: str
    pairs: int
    agreement: Figure
    """How often the label is for the response that people, or the gold judge, find better."""
    longer: Figure | None
    """Share of the label for the longer response, less the share that the truth gives it."""
    first: Figure | None
    """Share for the response shown first; a half without a taste for places. None where no order is shown."""
    flips: float | None
    """Share of pairs in which another order gives another answer."""


def describe_labels(name: str, rows: Sequence[Row], truth: np.ndarray, *, one_order: bool = False) -> Labels:
    """Measure labels; every pair is of a prompt, or of sentences, of its own, so that pairs are resampled.

    Args:
        name: what the table calls them.
        rows: pairs, as ``stages.label`` writes them.
        truth: [n], what is better: a share for the first response of each.
        one_order: the label is the more probable answer in the order of the row alone.
    """
    share = one_order_share(rows) if one_order else np.array([row["preference"] for row in rows], np.float64)
    words = np.array([[len(row[side].split()) for side in "ab"] for row in rows])
    sign = np.sign(words[:, 0] - words[:, 1])
    known, unequal = truth != 0.5, sign != 0
    right = 0.5 + 0.5 * np.sign(share - 0.5) * np.sign(truth - 0.5)
    taste = (sign * 0.5 * (np.sign(share - 0.5) - np.sign(truth - 0.5)))[unequal & known]
    first = flips = None
    if "shown_first" in rows[0]:
        first_is_a, second_is_a = shown(rows)
        first = with_interval(first_is_a if one_order else (first_is_a + 1 - second_is_a) / 2)
        flips = float(np.mean((first_is_a > 0.5) != (second_is_a > 0.5)))
    return Labels(
        name=name,
        pairs=len(rows),
        agreement=with_interval(right[known]),
        longer=with_interval(taste) if taste.size else None,
        first=first,
        flips=None if one_order else flips,
    )


def shown(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Take the share for A where A was shown first, and where it was shown second."""
    first = np.array([row["shown_first"] for row in rows], np.float64)
    return first, np.array([row["shown_second"] for row in rows], np.float64)


def one_order_share(rows: Sequence[Row]) -> np.ndarray:
    """Take the more probable answer with A shown first as the whole label, as whoever asks once does."""
    return 0.5 + 0.5 * np.sign(shown(rows)[0] - 0.5)


def with_interval(values: np.ndarray) -> Figure:
    """Mean and bootstrap interval of independent values."""
    return float(np.mean(values)), evaluation.bootstrap_mean(values, seed=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """What came of one way of labelling."""

    name: str
    labels: int
    on_people: Figure | None
    """How often the reward model picks what people pick, on sentences of the test split."""
    on_samples: Figure | None
    """How often it orders two samples of the SFT policy as the gold judge does."""
    gold: Figure
    """Win rate over the SFT policy by the gold judge."""
    gold_at_equal_length: Figure
    vader: Figure
    kl: Figure
    length: Figure
    """Tokens of a response."""
    ended: float
    distinct_2: float


def describe_policy(before: Sequence[Row], after: Sequence[Row]) -> Mapping[str, Any]:
    """Compare a policy's responses with the SFT policy's to the same prompts.

    Args:
        before: of the SFT policy: rows with ``prompt``, ``tokens``, ``gold``, ``vader`` and ``ended``.
        after: of the trained policy, with ``kl`` besides.
    """

    def of(rows: Sequence[Row], field: str) -> np.ndarray:
        return np.array([row[field] for row in rows], np.float64)

    prompts = [row["prompt"] for row in after]
    tokens = [[np.asarray(row["tokens"], np.int32) for row in rows] for rows in (after, before)]
    lengths = [np.array([len(x) for x in some]) for some in tokens]
    gold = evaluation.paired_win_rate(of(after, "gold"), of(before, "gold"), prompts, lengths=(lengths[0], lengths[1]))
    vader = evaluation.paired_win_rate(of(after, "vader"), of(before, "vader"), prompts)
    return {
        "gold": (gold.win_rate, gold.win_rate_ci),
        "gold_at_equal_length": (gold.length_controlled, gold.length_controlled_ci),
        "vader": (vader.win_rate, vader.win_rate_ci),
        "kl": with_interval(of(after, "kl")),
        "length": with_interval(lengths[0].astype(np.float64)),
        "ended": float(of(after, "ended").mean()),
        "distinct_2": evaluation.distinct_n(tokens[0], 2),
    }


def percent(figure: Figure | None) -> str:
    """Write a share with its interval."""
    return "" if figure is None else f"{figure[0]:.1%} ({figure[1][0]:.1%} to {figure[1][1]:.1%})"


def points(figure: Figure | None) -> str:
    """Write a difference of shares, in points, with its interval."""
    if figure is None:
        return ""
    mean, (low, high) = figure
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def number(figure: Figure) -> str:
    """Write a number with its interval."""
    return f"{figure[0]:.1f} ({figure[1][0]:.1f} to {figure[1][1]:.1f})"


def label_table(rows: Sequence[Labels]) -> str:
    """Write the labels as Markdown."""
    lines = [
        "| labels | pairs | agreement | longer, points beyond the truth's | shown first | other order, other answer |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        flips = "" if r.flips is None else f"{r.flips:.1%}"
        cells = (r.name, f"{r.pairs:,}", percent(r.agreement), points(r.longer), percent(r.first), flips)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arm_table(arms: Sequence[Arm]) -> str:
    """Write the arms as Markdown."""
    lines = [
        "| arm | labels | reward model on people's pairs | on samples, by gold | gold win rate over SFT "
        "| at equal length | VADER win rate | KL, nats | tokens | ended | distinct-2 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for a in arms:
        shares = (a.on_people, a.on_samples, a.gold, a.gold_at_equal_length, a.vader)
        numbers = (number(a.kl), number(a.length), f"{a.ended:.1%}", f"{a.distinct_2:.3f}")
        lines.append(f"| {' | '.join((a.name, f'{a.labels:,}', *map(percent, shares), *numbers))} |")
    return "\n".join(lines)


def figure(labels: Sequence[Labels], arms: Sequence[Arm], path: Path) -> None:
    """Draw two panels: how good the labels are, and what came of them."""
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(11, 0.42 * (max(len(labels), len(arms)) + 3)), layout="constrained")
    left, right = page.subplots(1, 2)

    def bars(axes: Any, names: Sequence[str], values: Sequence[Figure], title: str) -> None:
        for place, (mean, (low, high)) in enumerate(values):
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=f"C{place % 10}")
        axes.axvline(0.5, color="0.7", linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        axes.set_title(title, fontsize=10)

    bars(left, [x.name for x in labels], [x.agreement for x in labels], "labels: agreement with people, or gold")
    bars(right, [a.name for a in arms], [a.gold for a in arms], "policy: gold win rate over SFT")
    page.savefig(path, dpi=150)
