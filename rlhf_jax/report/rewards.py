"""What the page shows of a reward model: how it ranks held-out pairs beside others, by domain, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.evaluation.reward_model import FEWEST_PAIRS
from rlhf_jax.report import plots
from rlhf_jax.report.formats import number, percent, percent_interval, whole, with_interval

DOMAINS = 20  # rows of the table by domain; the summary has them all
_SCORERS = {"ridge": "ridge", "vader": "VADER", "single_rater": "one person"}
_LONG_NAMES = {
    "ridge": "ridge regression on TF-IDF",
    "vader": "VADER",
    "single_rater": "one person against the majority",
}


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, figure, 95% interval, how many) of what a policy is trained from; what the run lacks is left out.

    Args:
        summary: as in ``summary.json``.

    Example:
        >>> headline({"sft": {"heldout_loss": 4.2, "rows": {"held_out": 60}}})
        [('SFT: held-out loss, nats a token', '4.200', '', '60 rows')]
    """
    sft, reward, baselines = (summary.get(key, {}) for key in ("sft", "reward", "baselines"))
    held = sft.get("rows", {}).get("held_out")
    rows = [("SFT: held-out loss, nats a token", number(sft.get("heldout_loss")), "", _many(held, "row"))]
    rows += [
        (
            f"Reward model: {what}",
            percent(reward.get(key)),
            percent_interval(reward.get(f"{key}_ci")),
            _many(reward.get(count), "pair"),
        )
        for key, count, what in (
            ("accuracy", "pairs", "accuracy, all held-out pairs"),
            ("accuracy_decided", "pairs_decided", "accuracy, pairs with a vote share outside 0.2 to 0.8"),
            ("golden_accuracy", "golden_pairs", "accuracy, golden set"),
        )
    ]
    rows += [
        (
            f"Baseline: {name}, all held-out pairs",
            percent(baselines.get(key)),
            percent_interval(baselines.get(f"{key}_ci")),
            _many(reward.get("pairs"), "pair"),
        )
        for key, name in (_scorers(baselines) | _LONG_NAMES).items()
    ]
    return [row for row in rows if row[1]]


def reward_section(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Make what the template shows of the reward model.

    Args:
        summary: as in ``summary.json``.

    Returns:
        The table by domain (the domains with most pairs, ``domains_left`` counts the others), the drawings, and the
        figures of the sentences below them; ``few`` in place of the calibration of too few pairs.
    """
    reward, baselines = summary.get("reward", {}), summary.get("baselines", {})
    found = {"reward model": _cells(reward, "accuracy")}
    found |= {name: _cells(baselines, key) for key, name in _scorers(baselines).items()}
    found = {scorer: cells for scorer, cells in found.items() if cells}
    overall = {"reward model": reward, **{name: _overall(baselines, key) for key, name in _scorers(baselines).items()}}
    # Data without domains counts as one called "all", and all pairs have a row anyway.
    every = list(dict.fromkeys(domain for cells in found.values() for domain in cells if domain != "all"))
    counts = reward.get("pairs_by_domain", {})
    largest = sorted(every, key=lambda domain: -(counts.get(domain) or 0))[:DOMAINS]
    domains = [domain for domain in every if domain in set(largest)]
    shown = {scorer: {d: cells[d] for d in domains if d in cells} for scorer, cells in found.items()}
    table = [
        (domain, whole(counts.get(domain)), _row(found, domain))
        for domain in (domains if "reward model" in found else [])
    ]
    bins, few = reward.get("reliability"), (reward.get("pairs") or FEWEST_PAIRS) < FEWEST_PAIRS
    pooled = [_accuracy(overall[scorer].get("accuracy"), overall[scorer].get("accuracy_ci")) for scorer in found]
    return {
        "scorers": list(found),
        "table": table,
        "domains_left": len(every) - len(domains),
        "pooled": pooled,
        "pairs": whole(reward.get("pairs")),
        "by_domain": plots.accuracy_by_domain(shown) if table else "",
        "reliability": plots.reliability_diagram(bins) if bins and not few else "",
        "few": _many(reward["pairs"], "pair") if bins and few else "",
        "ece": number(reward.get("ece")),
        "mean": number(reward.get("reward_mean"), 2),
        "std": number(reward.get("reward_std"), 2),
        "longer": percent(reward.get("longer_wins")),
        "longer_of": _many(reward.get("pairs_uneven"), "pair"),
        "longer_people": percent(reward.get("longer_wins_people")),
        "members": [percent(accuracy) for accuracy in reward.get("member_accuracy", [])],
        "together": percent(reward.get("accuracy")),
        "disagreement": number(reward.get("disagreement"), 2),
    }


def _many(count: int | None, what: str) -> str:
    return "" if count is None else f"{count:,} {what}{'s' if count != 1 else ''}"


def _scorers(baselines: Mapping[str, Any]) -> dict[str, str]:
    """Every baseline, by its key, and what the page calls it: a task may have baselines of its own."""
    measured = [key for key in baselines if not key.endswith(("_ci", "_by_domain"))]
    return _SCORERS | {key: key for key in measured if key not in _SCORERS}


def _row(found: Mapping[str, Mapping[str, Any]], domain: str) -> list[str]:
    cells = [by_domain.get(domain, {"accuracy": None, "ci": None}) for by_domain in found.values()]
    return [_accuracy(cell["accuracy"], cell["ci"]) for cell in cells]


def _accuracy(value: float | None, interval: Sequence[float] | None) -> str:
    return with_interval(percent(value), percent_interval(interval))


def _cells(figures: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """A scorer's accuracy in each domain, with its interval where it is known."""
    intervals = figures.get(f"{key}_by_domain_ci", {})
    return {
        domain: {"accuracy": value, "ci": intervals.get(domain)}
        for domain, value in figures.get(f"{key}_by_domain", {}).items()
    }


def _overall(baselines: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"accuracy": baselines.get(key), "accuracy_ci": baselines.get(f"{key}_ci")}
