"""``write_report``: from a run folder to RUN/report.html. The words of the page are in template.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.files import atomic_binary
from rlhf_jax.report import plots
from rlhf_jax.report.formats import number, percent, percent_interval, with_interval
from rlhf_jax.report.goodput import time_section
from rlhf_jax.report.panels import stage_panels
from rlhf_jax.report.policies import policy_section, policy_table, sampled_by
from rlhf_jax.report.run_folder import RunFolder, read_run
from rlhf_jax.report.samples import COMPARED, before_and_after, comparison, over_steps
from rlhf_jax.stages.titles import POLICIES, TITLES, policy_name, stage_title
from rlhf_jax.stages.verdicts import verdicts

_SCORERS = {"ridge": "ridge", "vader": "VADER", "single_rater": "one person"}
_LONG_NAMES = {
    "ridge": "ridge regression on TF-IDF",
    "vader": "VADER",
    "single_rater": "one person against the majority",
}
# Diagrams in a row, for so few that three would leave a hole.
_COLUMNS = {1: 1, 2: 2, 4: 2}


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
    with atomic_binary(target) as file:
        # A sampled text may hold half a surrogate pair, which UTF-8 has no bytes for.
        file.write(html.encode("utf-8", "replace"))
    return target


def _context(run: RunFolder) -> dict[str, Any]:
    summary = run.summary
    names = [*TITLES, *(stage for stage in run.metrics if stage not in TITLES)]
    sampled, compared = sampled_by(summary), comparison(run.samples)
    return {
        "name": run.path.resolve().name,
        "seed": summary.get("seed"),
        "verdicts": verdicts(summary),
        "headline": _headline(summary),
        "policies": [_policy_name(stage, run) for stage in POLICIES if stage in summary],
        "policy_table": policy_table(summary),
        "stages": [_stage(name, run) for name in names if name in run.metrics or name in summary],
        "reward": _reward(summary),
        "samples": before_and_after(compared),
        "sampled_by": None if sampled is None else _policy_name(sampled, run),
        "samples_left": max(0, len(compared) - COMPARED),
        "prompts": summary.get("prompts", {}),
        "agreement": _flat(summary.get("agreement", {})),
        "config": [(group, _flat(fields)) for group, fields in _groups(run.config)],
        "cost": _cost(summary),
        "time": time_section(run.goodput, {stage: _objective(stage, run) for stage in run.goodput}),
        "versions": summary.get("versions", {}),
        "hashes": summary.get("params_sha256", {}),
    }


def _headline(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, figure, 95% interval) of what a policy is trained from; what the run lacks is left out."""
    sft, reward, baselines = (summary.get(key, {}) for key in ("sft", "reward", "baselines"))
    rows = [("SFT: held-out loss, nats a token", number(sft.get("heldout_loss")), "")]
    rows += [
        (f"Reward model: {what}", percent(reward.get(key)), percent_interval(reward.get(f"{key}_ci")))
        for key, what in (
            ("accuracy", "accuracy, all held-out pairs"),
            ("accuracy_decided", "accuracy, pairs with a vote share outside 0.2 to 0.8"),
            ("golden_accuracy", "accuracy, golden set"),
        )
    ]
    rows += [
        (
            f"Baseline: {name}, all held-out pairs",
            percent(baselines.get(key)),
            percent_interval(baselines.get(f"{key}_ci")),
        )
        for key, name in (_scorers(baselines) | _LONG_NAMES).items()
    ]
    return [row for row in rows if row[1]]


def _stage(name: str, run: RunFolder) -> dict[str, Any]:
    rows, figures = run.metrics.get(name, []), run.summary.get(name, {})
    main, other = stage_panels(name, rows)
    return {
        "name": name,
        "title": stage_title(name, _objective(name, run)),
        "steps": rows[-1]["step"] if rows else None,
        "done": name in run.summary,
        "stop_reason": figures.get("stop_reason"),
        "policy": policy_section(name, rows, figures) if name in POLICIES else None,
        "samples": over_steps(run.samples, name, figures.get("best_step")),
        "curves": plots.curves(main, columns=_COLUMNS.get(len(main), 3)),
        "other": plots.curves(other),
        "figures": [(key, value) for key, value in _flat(figures) if _is_plain(key)],
    }


def _policy_name(stage: str, run: RunFolder) -> str:
    return policy_name(stage, run.summary.get(stage, {}), _configured(stage, run))


def _objective(stage: str, run: RunFolder) -> str | None:
    return run.summary.get(stage, {}).get("objective") or _configured(stage, run)


def _configured(stage: str, run: RunFolder) -> str | None:
    """The objective in a stage's config, which is there before the summary is."""
    return run.config[stage].get("objective") if isinstance(run.config.get(stage), dict) else None


def _scorers(baselines: Mapping[str, Any]) -> dict[str, str]:
    """Every baseline, by its key, and what the page calls it: a task may have baselines of its own."""
    measured = [key for key in baselines if not key.endswith(("_ci", "_by_domain"))]
    return _SCORERS | {key: key for key in measured if key not in _SCORERS}


def _reward(summary: Mapping[str, Any]) -> dict[str, Any]:
    reward, baselines = summary.get("reward", {}), summary.get("baselines", {})
    found = {"reward model": _cells(reward, "accuracy")}
    found |= {name: _cells(baselines, key) for key, name in _scorers(baselines).items()}
    found = {scorer: cells for scorer, cells in found.items() if cells}
    overall = {"reward model": reward, **{name: _overall(baselines, key) for key, name in _scorers(baselines).items()}}
    # Data without domains counts as one called "all", and all pairs have a row anyway.
    domains = list(dict.fromkeys(domain for cells in found.values() for domain in cells if domain != "all"))
    table = [
        (domain, cells["pairs"] if (cells := found["reward model"].get(domain, {})) else None, _row(found, domain))
        for domain in (domains if "reward model" in found else [])
    ]
    pooled = [_accuracy(overall[scorer].get("accuracy"), overall[scorer].get("accuracy_ci")) for scorer in found]
    return {
        "scorers": list(found),
        "table": table,
        "pooled": pooled,
        "pairs": reward.get("pairs"),
        "by_domain": plots.accuracy_by_domain(found) if table else "",
        "reliability": plots.reliability_diagram(reward["reliability"]) if reward.get("reliability") else "",
        "ece": number(reward.get("ece")),
        "mean": number(reward.get("reward_mean"), 2),
        "std": number(reward.get("reward_std"), 2),
        "longer": percent(reward.get("longer_wins")),
        "longer_people": percent(reward.get("longer_wins_people")),
        "members": [percent(accuracy) for accuracy in reward.get("member_accuracy", [])],
        "together": percent(reward.get("accuracy")),
        "disagreement": number(reward.get("disagreement"), 2),
    }


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
        "stop_reason",
        "curve",
    }


def _row(found: Mapping[str, Mapping[str, Any]], domain: str) -> list[str]:
    cells = [by_domain.get(domain, {"accuracy": None, "ci": None}) for by_domain in found.values()]
    return [_accuracy(cell["accuracy"], cell["ci"]) for cell in cells]


def _accuracy(value: float | None, interval: Sequence[float] | None) -> str:
    return with_interval(percent(value), percent_interval(interval))


def _cells(figures: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """A scorer's accuracy in each domain, with its interval and number of pairs where they are known."""
    intervals, pairs = figures.get(f"{key}_by_domain_ci", {}), figures.get("pairs_by_domain", {})
    return {
        domain: {"accuracy": value, "ci": intervals.get(domain), "pairs": pairs.get(domain)}
        for domain, value in figures.get(f"{key}_by_domain", {}).items()
    }


def _overall(baselines: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {"accuracy": baselines.get(key), "accuracy_ci": baselines.get(f"{key}_ci")}


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    # Everything a run holds is text by strangers, and a name missing in the template is our mistake: both are strict.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name("template.html").read_text(encoding="utf-8"))
