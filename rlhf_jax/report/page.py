"""``write_report``: from a run folder to RUN/report.html. The words of the page are in template.html."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.evaluation import alarms
from rlhf_jax.report import plots
from rlhf_jax.report.panels import stage_panels
from rlhf_jax.report.run_folder import Row, RunFolder, read_run, series
from rlhf_jax.report.verdicts import verdicts

_TITLES = {"sft": "Supervised fine-tuning", "reward": "Reward model", "ppo": "PPO against the reward model"}
_SCORERS = {"ridge": "ridge", "vader": "VADER", "single_rater": "one person"}
# Enough to read; samples.jsonl has them all.
_SAMPLES_SHOWN = 32


def write_report(run_dir: Path | str) -> Path:
    """Write RUN/report.html, one file that needs no other and no network.

    It shows what is there: after one stage, after a crash, or while a run is going. An older report is replaced in
    one step, so a reader never sees half a page.

    Args:
        run_dir: a run folder: config.json, metrics.jsonl, summary.json, samples.jsonl, any of which may be missing.

    Returns:
        The path of the page.

    Raises:
        ReportError: if the folder holds nothing of a run, or one of its files is damaged.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "summary.json").write_text('{"sft": {"heldout_loss": 4.2}}')
        >>> page = write_report(folder)
        >>> page.name, "4.200" in page.read_text(encoding="utf-8")
        ('report.html', True)
    """
    run = read_run(run_dir)
    html = _template().render(**_context(run))
    target = run.path / "report.html"
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    # A sampled text may hold half a surrogate pair, which UTF-8 has no bytes for.
    temporary.write_bytes(html.encode("utf-8", "replace"))
    os.replace(temporary, target)
    return target


def _context(run: RunFolder) -> dict[str, Any]:
    summary = run.summary
    names = [*_TITLES, *(stage for stage in run.metrics if stage not in _TITLES)]
    return {
        "name": run.path.resolve().name,
        "seed": summary.get("seed"),
        "verdicts": verdicts(summary),
        "headline": _headline(summary),
        "stages": [_stage(name, run) for name in names if name in run.metrics or name in summary],
        "reward": _reward(summary),
        "ppo": _ppo(run),
        "samples": _samples(run.samples),
        "samples_left": max(0, len(run.samples) - _SAMPLES_SHOWN),
        "prompts": summary.get("prompts", {}),
        "agreement": _flat(summary.get("agreement", {})),
        "config": [(group, _flat(fields)) for group, fields in _groups(run.config)],
        "cost": _cost(summary),
        "versions": summary.get("versions", {}),
        "hashes": summary.get("params_sha256", {}),
    }


def _headline(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figure, 95% interval) of everything a reader looks for first; what the run lacks is left out."""
    sft, reward, ppo = (summary.get(stage, {}) for stage in ("sft", "reward", "ppo"))
    yardsticks = summary.get("yardsticks", {})
    rows = [("SFT: held-out loss, nats a token", _number(sft.get("heldout_loss")), "")]
    rows += [
        (f"Reward model: {what}", _percent(reward.get(key)), _interval(reward.get(f"{key}_ci")))
        for key, what in (
            ("accuracy", "accuracy, all held-out pairs"),
            ("accuracy_decided", "accuracy, pairs with a vote share outside 0.2 to 0.8"),
            ("golden_accuracy", "accuracy, golden set"),
        )
    ]
    rows += [
        (
            f"Yardstick: {name}, all held-out pairs",
            _percent(yardsticks.get(key)),
            _interval(yardsticks.get(f"{key}_ci")),
        )
        for key, name in (
            ("ridge", "ridge regression on TF-IDF"),
            ("vader", "VADER"),
            ("single_rater", "one person against the majority"),
        )
    ]
    rows += [
        (
            "PPO: wins against SFT, gold judge",
            _percent(ppo.get("gold_win_rate")),
            _interval(ppo.get("gold_win_rate_ci")),
        ),
        ("PPO: KL to the SFT policy, nats a response", _number(ppo.get("kl"), 2), ""),
        ("PPO: proxy reward, before → after", _change(ppo, "proxy"), ""),
        ("PPO: gold score, before → after", _change(ppo, "gold"), ""),
        ("PPO: distinct-2", _number(ppo.get("distinct_2")), ""),
    ]
    return [row for row in rows if row[1]]


def _stage(name: str, run: RunFolder) -> dict[str, Any]:
    rows = run.metrics.get(name, [])
    main, other = stage_panels(name, rows)
    return {
        "name": name,
        "title": _TITLES.get(name, name),
        "steps": rows[-1]["step"] if rows else None,
        "done": name in run.summary,
        "curves": plots.curves(main, columns=min(3, max(1, len(main)))),
        "other": plots.curves(other),
        "figures": [(key, value) for key, value in _flat(run.summary.get(name, {})) if _is_plain(key)],
    }


def _reward(summary: Mapping[str, Any]) -> dict[str, Any]:
    reward, yardsticks = summary.get("reward", {}), summary.get("yardsticks", {})
    found = {"reward model": _cells(reward, "accuracy")}
    found |= {name: _cells(yardsticks, key) for key, name in _SCORERS.items()}
    found = {scorer: cells for scorer, cells in found.items() if cells}
    overall = {"reward model": reward, **{name: _overall(yardsticks, key) for key, name in _SCORERS.items()}}
    domains = list(dict.fromkeys(domain for cells in found.values() for domain in cells))
    table = [
        (domain, cells["pairs"] if (cells := found["reward model"].get(domain, {})) else None, _row(found, domain))
        for domain in (domains if "reward model" in found else [])
    ]
    pooled = [_percent(overall[s].get("accuracy")) + _after(_interval(overall[s].get("accuracy_ci"))) for s in found]
    return {
        "scorers": list(found),
        "table": table,
        "pooled": pooled,
        "pairs": reward.get("pairs"),
        "by_domain": plots.accuracy_by_domain(found) if table else "",
        "reliability": plots.reliability_diagram(reward["reliability"]) if reward.get("reliability") else "",
        "ece": _number(reward.get("ece")),
        "mean": _number(reward.get("reward_mean"), 2),
        "std": _number(reward.get("reward_std"), 2),
        "longer": _percent(reward.get("longer_wins")),
        "longer_people": _percent(reward.get("longer_wins_people")),
    }


def _ppo(run: RunFolder) -> dict[str, Any]:
    rows, ppo = run.metrics.get("ppo", []), run.summary.get("ppo", {})
    names = ("ppo/heldout_kl", "ppo/heldout_proxy", "ppo/heldout_gold")
    columns = [dict(series(rows, name)) for name in names]
    # One point a step that has all three; a figure that was not finite is no point.
    steps = sorted(set.intersection(*(set(column) for column in columns)))
    points = [(columns[0][step], columns[1][step], columns[2][step]) for step in steps]
    points = [point for point in points if all(math.isfinite(value) for value in point)]
    # While the run is going there is no summary yet, and its log says the same.
    found = ppo["alarms"] if "alarms" in ppo else [alarm._asdict() for alarm in alarms(rows)]
    return {
        "there": bool(rows or ppo),
        "over_optimisation": plots.over_optimisation(points) if len(points) > 1 else "",
        "alarms": [alarm if isinstance(alarm, dict) else {"name": "", "step": "", "message": alarm} for alarm in found],
    }


def _samples(rows: Sequence[Row]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The first samples of each domain in turn, so that none is crowded out, in groups by domain."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get("domain") or ""), []).append(row)
    each = -(-_SAMPLES_SHOWN // max(1, len(groups)))
    fields = ("proxy_before", "proxy_after", "gold_before", "gold_after")
    return [
        (domain, [{**row, **{name: _number(row.get(name), 2) for name in fields}} for row in members[:each]])
        for domain, members in groups.items()
    ]


def _cost(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"seconds, {name}", f"{value:,.0f}") for name, value in summary.get("seconds", {}).items()]
    if summary.get("peak_rss_mib") is not None:
        rows.append(("peak memory, MiB", f"{summary['peak_rss_mib']:,.0f}"))
    return rows


def _groups(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """One table a stage; fields that stand outside any stage come first."""
    loose = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups: list[tuple[str, Mapping[str, Any]]] = [(k, v) for k, v in config.items() if isinstance(v, dict)]
    return ([("", loose)] if loose else []) + groups


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            found += _flat(item, name)
        else:
            found.append((name, _text(item)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_plain(name: str) -> bool:
    """Whether a figure belongs in the list under a stage: what has a table or a drawing of its own does not."""
    return name.split(".")[0] not in {
        "accuracy_by_domain",
        "accuracy_by_domain_ci",
        "pairs_by_domain",
        "reliability",
        "warnings",
        "alarms",
        "curve",
    }


def _row(found: Mapping[str, Mapping[str, Any]], domain: str) -> list[str]:
    cells = [by_domain.get(domain, {"accuracy": None, "ci": None}) for by_domain in found.values()]
    return [_percent(cell["accuracy"]) + _after(_interval(cell["ci"])) for cell in cells]


def _cells(figures: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """A scorer's accuracy in each domain, with its interval and number of pairs where they are known."""
    intervals, pairs = figures.get(f"{key}_by_domain_ci", {}), figures.get("pairs_by_domain", {})
    return {
        domain: {"accuracy": value, "ci": intervals.get(domain), "pairs": pairs.get(domain)}
        for domain, value in figures.get(f"{key}_by_domain", {}).items()
    }


def _overall(yardsticks: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"accuracy": yardsticks.get(key), "accuracy_ci": yardsticks.get(f"{key}_ci")}


def _change(ppo: Mapping[str, Any], name: str) -> str:
    before, after = ppo.get(f"{name}_before"), ppo.get(f"{name}_after")
    return "" if before is None or after is None else f"{before:.2f} → {after:.2f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if not interval else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _after(text: str) -> str:
    return f" ({text})" if text else ""


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # Everything a run holds is text by strangers, and a name missing in the template is our mistake: both are strict.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name("template.html").read_text(encoding="utf-8"))
