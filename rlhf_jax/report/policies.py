"""What the page says of a policy, whichever stage trained it: results side by side, alarms, over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.evaluation import alarms, fit_over_optimisation
from rlhf_jax.evaluation.over_optimisation import FEWEST
from rlhf_jax.report import plots
from rlhf_jax.report.formats import change, number, percent, percent_interval, whole, with_interval
from rlhf_jax.report.run_folder import Row, series
from rlhf_jax.stage_names import ONLINE_STAGES
from rlhf_jax.stages.policy_verdicts import judged_by
from rlhf_jax.stages.titles import POLICIES, judge_name

_SHORT = {"vader": "VADER"}
# What the alarms look for, and the figures (any set of them) without which an alarm stays silent.
_WATCHED: Sequence[tuple[str, Sequence[set[str]]]] = (
    ("a negative KL", [{"kl"}]),
    ("a KL above the limit", [{"kl"}, {"heldout_kl"}]),
    ("a proxy that rises while the {judge} score does not", [{"heldout_proxy", "heldout_{judge}"}]),
    ("responses that never end", [{"eos_rate"}, {"heldout_eos"}]),
    ("a reward that is one constant", [{"proxy_std"}]),
    ("a reward that stays flat at a low KL", [{"heldout_kl", "heldout_proxy", "proxy_std"}]),
    ("one answer to all prompts", [{"most_common"}, {"distinct_2"}]),
    ("skipped updates", [{"skipped"}]),
    ("a sampler that disagrees with the trainer", [{"logprob_gap"}]),
)

_FORMS = "words, openings, lists, repetition or a length that the reward pays for"


def policy_table(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Every policy of a run in figures, one column each in the order of the stages.

    Args:
        summary: as in ``summary.json``.

    Returns:
        (what, a text for each policy) rows; a row that no policy has a figure for is left out.

    Example:
        >>> policy_table({"ppo": {"kl": 7.0}, "preference": {"kl": 2.0, "kl_ci": [1.5, 2.5]}})
        [('KL to the starting policy, nats a response', ['7.00', '2.00 (1.50 to 2.50)'])]
    """
    policies = [summary[stage] for stage in trained(summary)]
    names = {name: _judge(name, policies) for name in _in_order(policies)}
    rows = [
        ("prompts that both answered", [whole(p.get("test_prompts")) for p in policies]),
        *((f"wins by {judge}", [_share(p, f"{name}_win_rate") for p in policies]) for name, judge in names.items()),
        *(
            (f"mean score by {judge}", [_change(p, f"{name}_before", f"{name}_after") for p in policies])
            for name, judge in names.items()
        ),
        (
            "pairs of its own samples that the proxy orders as the judge does, before and after",
            [_change(p, "proxy_accuracy_before", "proxy_accuracy", 3) for p in policies],
        ),
        ("KL to the starting policy, nats a response", [_kl(p) for p in policies]),
        ("length, tokens", [_change(p, "length_before", "length", 1) for p in policies]),
        ("share of responses that end", [_change(p, "eos_rate_before", "eos_rate") for p in policies]),
        ("distinct-2", [_change(p, "distinct_2_before", "distinct_2", 3) for p in policies]),
        (
            "implicit reward: held-out pairs ranked as people do",
            [_among(_share(p, "accuracy"), p.get("pairs"), "pairs") for p in policies],
        ),
        (
            "implicit reward: thumbs up above thumbs down, held out (AUC)",
            [_among(_share(p, "label_auc"), p.get("responses"), "responses") for p in policies],
        ),
        ("step that was kept", [_kept(p) for p in policies]),
    ]
    return [row for row in rows if any(row[1])]


def trained(summary: Mapping[str, Any]) -> list[str]:
    """The stages that left a policy, in the order of the page; what failed has none to show.

    Example:
        >>> trained({"preference": {}, "ppo": {"failed": "all 4 updates were skipped"}})
        ['preference']
    """
    return [stage for stage in POLICIES if stage in summary and not summary[stage].get("failed")]


def scores(figures: Mapping[str, Any]) -> dict[str, str]:
    """What the judges of a stage are called in titles, by the names of their scores; those that are named, and gold.

    Args:
        figures: its part of the summary.

    Example:
        >>> scores({"judges": {"gold": "mine.py:warm", "short": "mine.py:short"}})
        {'gold': 'gold score (mine.py:warm)', 'short': 'score by short'}
    """
    judges = figures.get("judges", {})
    names = dict.fromkeys(["gold", *judges, *(name for name in judged_by(figures) if name != "proxy")])
    what = f" ({judges['gold']})" if judges.get("gold") else ""
    return {name: f"gold score{what}" if name == "gold" else f"score by {_SHORT.get(name, name)}" for name in names}


def policy_section(
    stage: str,
    rows: Sequence[Row],
    figures: Mapping[str, Any],
    max_kl: float | None = None,
    from_step: int = 20,
) -> dict[str, Any]:
    """Alarms and over-optimisation of one stage.

    Args:
        stage: one of ``POLICIES``.
        rows: its part of the log.
        figures: its part of the summary.
        max_kl: its config's limit of the KL, if it has one.
        from_step: the first step at which a reward that has not risen is an alarm.

    Returns:
        What the template shows: ``alarms``, ``watched`` (what raised none, in words), ``over_optimisation`` (an
        address, or empty), ``has_proxy`` (whether that drawing has a proxy reward), ``judge`` (whose scores it has) and
        ``own_samples`` (how often the proxy orders the trained policy's samples as that judge does, in words).
    """
    # While the run is going there is no summary yet, and its log says the same.
    judge = _ruling(stage, rows, figures)
    raised = [] if "alarms" in figures else alarms(rows, stage=stage, judge=judge, max_kl=max_kl, from_step=from_step)
    found = figures.get("alarms", [alarm._asdict() for alarm in raised])
    logged = {name.removeprefix(f"{stage}/") for row in rows for name, value in row.items() if value is not None}
    points = _points(stage, rows, judge)
    titles = (_named("proxy", figures.get("reward")), _named(judge, figures.get("judges", {}).get(judge)))
    drawing = ""
    # A policy that has not moved has nothing to show, nor has one whose scores are what they were.
    if len({kl for kl, _, _ in points}) > 1 and len({scored[1:] for scored in points}) > 1:
        drawing = plots.over_optimisation(points, _fitted(stage, points), titles=titles)
    return {
        "alarms": [alarm if isinstance(alarm, dict) else {"name": "", "step": "", "message": alarm} for alarm in found],
        "watched": _watched(logged, judge) + [_FORMS] * bool(figures.get("monitors")),
        "over_optimisation": drawing,
        "has_proxy": any(proxy is not None for _, proxy, _ in points),
        "judge": judge,
        "own_samples": _own_samples(figures),
    }


def sampled_by(summary: Mapping[str, Any]) -> str | None:
    """The stage whose samples a run folder holds: each writes them anew, and its summary right after them.

    Example:
        >>> sampled_by({"preference": {}, "ppo": {}, "seed": 0})
        'ppo'
    """
    return next((stage for stage in reversed(list(summary)) if stage in POLICIES), None)


def _watched(logged: set[str], judge: str) -> list[str]:
    """What the alarms had the figures to look for, in words."""
    return [
        what.format(judge=judge)
        for what, needs in _WATCHED
        if any({name.format(judge=judge) for name in need} <= logged for need in needs)
    ]


def _ruling(stage: str, rows: Sequence[Row], figures: Mapping[str, Any]) -> str:
    """The judge that decides: ``gold`` where there is one, or else the first of the run's own."""
    logged = {name for row in rows for name in row}
    names = ["gold", *figures.get("judges", {})]
    return next((name for name in names if f"{stage}/heldout_{name}" in logged), "gold")


def _points(stage: str, rows: Sequence[Row], judge: str) -> list[tuple[float, float | None, float]]:
    """(KL, proxy, the judge's score) of each evaluation that has them all; no proxy where none was ever logged."""
    kl, proxy, gold = (dict(series(rows, f"{stage}/heldout_{name}")) for name in ("kl", "proxy", judge))
    steps = sorted(set(kl) & set(gold) & (set(proxy) if proxy else set(kl)))
    points = [(kl[step], proxy.get(step), gold[step]) for step in steps]
    return [point for point in points if all(value is None or math.isfinite(value) for value in point)]


def _fitted(stage: str, points: Sequence[tuple[float, float | None, float]]) -> plots.Curve | None:
    """Gold score by KL, fitted; None where that is not known, of too few evaluations, and where nothing bends down."""
    # The curve starts at the starting policy, which only these stages evaluate before their first step.
    if stage not in ONLINE_STAGES or points[0][0] != 0:
        return None
    start = points[0][2]
    away = [(kl, gold - start) for kl, _, gold in points if kl > 0]
    if len({kl for kl, _ in away}) < FEWEST:
        return None
    found = fit_over_optimisation(*zip(*away, strict=True), kind="rl")
    # The form rises steeply first. Where gold has not bent down yet it can only be met by a curve that dips below the
    # SFT policy on its way, between evaluations, where nobody measured.
    return None if found.peak_d is None else lambda kl: start + found.curve(kl)


def _in_order(policies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every score by which a policy was compared: the judge that decides first, the proxy, which is no judge, last."""
    won = [name for figures in policies for name in judged_by(figures)]
    won += [name for name in ("gold", "proxy") if any(f"{name}_after" in figures for figures in policies)]
    return sorted(dict.fromkeys(won), key=lambda name: {"gold": 0, "proxy": 2}.get(name, 1))


def _judge(name: str, policies: Sequence[Mapping[str, Any]]) -> str:
    """A judge's name in a row of all policies: what it is too, where all of them say the same."""
    called = dict.fromkeys(judge_name(name, figures) for figures in policies)
    return next(iter(called)) if len(called) == 1 else judge_name(name, {})


def _own_samples(figures: Mapping[str, Any]) -> str:
    """How often the proxy orders pairs of the policy's own samples as the judge does; empty where nobody knows."""
    share = _among(_share(figures, "proxy_accuracy"), figures.get("proxy_accuracy_pairs"), "pairs")
    before = percent(figures.get("proxy_accuracy_before"))
    return f"{share}; {before} of the starting policy's" if share and before else share


def _named(name: str, what: str | None) -> str:
    return f"{name}: {what}" if what else {"proxy": "proxy (the reward model)"}.get(name, f"{name} (never trained on)")


def _among(share: str, count: int | None, what: str) -> str:
    return f"{share}, {count:,} {what}" if share and count else share


def _kept(figures: Mapping[str, Any]) -> str:
    best, steps = figures.get("best_step"), figures.get("steps")
    if best is None:
        return ""
    return f"{best:,} of {steps:,}" if steps is not None else f"{best:,}"


def _share(figures: Mapping[str, Any], key: str) -> str:
    return with_interval(percent(figures.get(key)), percent_interval(figures.get(f"{key}_ci")))


def _kl(figures: Mapping[str, Any]) -> str:
    low, high = figures.get("kl_ci") or (0.0, 0.0)
    # The KL of best-of-n is known, not estimated.
    return with_interval(number(figures.get("kl"), 2), f"{low:.2f} to {high:.2f}" if low < high else "")


def _change(figures: Mapping[str, Any], before: str, after: str, digits: int = 2) -> str:
    return change(figures.get(before), figures.get(after), digits)
