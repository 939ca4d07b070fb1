"""``write_report``: from a run folder to RUN/report.html. The words of the page are in template.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_jax.files import atomic_binary
from rlhf_jax.report import plots
from rlhf_jax.report.about import MOST, flat, groups, latest, made
from rlhf_jax.report.agreeing import agreeing_section
from rlhf_jax.report.findings import findings_section
from rlhf_jax.report.goodput import time_section
from rlhf_jax.report.panels import moving, stage_panels
from rlhf_jax.report.policies import policy_section, policy_table, sampled_by, scores, trained
from rlhf_jax.report.rewards import headline, reward_section
from rlhf_jax.report.run_folder import RunFolder, read_run
from rlhf_jax.report.samples import before_and_after, comparison, over_steps
from rlhf_jax.stages.heldout_samples import first_and_latest
from rlhf_jax.stages.monitors import monitor, monitor_alarms
from rlhf_jax.stages.titles import POLICIES, TITLES, policy_name, stage_title
from rlhf_jax.stages.verdicts import verdicts
from rlhf_jax.stages.watcher import SOONEST

MOST_OTHER = 60  # diagrams of what else was logged
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
    html = template("template.html").render(**_context(run))
    target = run.path / "report.html"
    with atomic_binary(target) as file:
        # A sampled text may hold half a surrogate pair, which UTF-8 has no bytes for.
        file.write(html.encode("utf-8", "replace"))
    return target


def _context(run: RunFolder) -> dict[str, Any]:
    summary = run.summary
    names = [*TITLES, *(stage for stage in run.metrics if stage not in TITLES)]
    sampled, compared = sampled_by(summary), comparison(run.samples)
    shown = [name for name in names if name in run.metrics or name in summary or name in summary.get("failed", {})]
    samples = before_and_after(compared)
    agreement = flat(summary.get("agreement", {}))
    from markupsafe import Markup

    return {
        "name": run.path.resolve().name,
        "typeface": Markup(plots.TYPEFACE),
        "seed": summary.get("seed"),
        "latest": latest(summary),
        "verdicts": verdicts(summary),
        "headline": headline(summary),
        "policies": [_policy_name(stage, run) for stage in trained(summary)],
        "policy_table": policy_table(summary),
        "stages": [_stage(name, run) for name in shown],
        "reward": reward_section(summary),
        "agreeing": agreeing_section(summary),
        "samples": samples,
        "sampled_by": None if sampled is None else _policy_name(sampled, run),
        "samples_left": len(compared) - sum(len(rows) for _, rows in samples),
        "prompts": summary.get("prompts", {}),
        "agreement": agreement[:MOST],
        "agreement_left": max(0, len(agreement) - MOST),
        "config": groups(run.config),
        "made": made(summary),
        "time": time_section(run.goodput, {stage: _objective(stage, run) for stage in run.goodput}),
        "versions": summary.get("versions", {}),
        "hashes": summary.get("params_sha256", {}),
    }


def _stage(name: str, run: RunFolder) -> dict[str, Any]:
    rows, figures = run.metrics.get(name, []), run.summary.get(name, {})
    main, other = stage_panels(name, rows, scores(figures))
    (main, still), (other, also_still) = moving(main), moving(other)
    listed = [(key, value) for key, value in flat(figures) if _is_plain(key)]
    return {
        "name": name,
        "title": stage_title(name, _objective(name, run), figures.get("reward")),
        "steps": rows[-1]["step"] if rows else None,
        "done": name in run.summary,
        "stop_reason": figures.get("stop_reason"),
        "failed": figures.get("failed") or (name not in run.summary and run.summary.get("failed", {}).get(name)),
        "policy": _policy(name, run) if name in POLICIES else None,
        "samples": over_steps(run.samples, name, figures.get("best_step")),
        "curves": plots.curves(main, columns=_COLUMNS.get(len(main), 3)),
        "still": [*still, *also_still],
        "other": plots.curves(other[:MOST_OTHER]),
        "other_left": max(0, len(other) - MOST_OTHER),
        "figures": listed[:MOST],
        "figures_left": max(0, len(listed) - MOST),
    }


def _policy(stage: str, run: RunFolder) -> dict[str, Any]:
    figures = run.summary.get(stage, {})
    found = policy_section(stage, run.metrics.get(stage, []), figures, _max_kl(stage, run), _half(stage, run))
    step, rows = first_and_latest(run.heldout, stage)
    if "alarms" not in figures:  # the stage has not ended, or failed
        found["alarms"] += [alarm._asdict() for alarm in monitor_alarms(monitor(rows, found["judge"]), step)]
    # The final comparison is of the stage that finished last; the others are shown by two evaluations.
    compared = comparison(run.samples) if sampled_by(run.summary) == stage else rows
    return {**found, "findings": findings_section(figures, compared, found["judge"])}


def _policy_name(stage: str, run: RunFolder) -> str:
    return policy_name(stage, run.summary.get(stage, {}), _configured(stage, run))


def _objective(stage: str, run: RunFolder) -> str | None:
    return run.summary.get(stage, {}).get("objective") or _configured(stage, run)


def _configured(stage: str, run: RunFolder) -> str | None:
    """The objective in a stage's config, which is there before the summary is."""
    return run.config[stage].get("objective") if isinstance(run.config.get(stage), dict) else None


def _max_kl(stage: str, run: RunFolder) -> float | None:
    fields = run.config.get(stage)
    return fields.get("max_kl") if isinstance(fields, dict) else None


def _half(stage: str, run: RunFolder) -> int:
    """The step from which a reward that has not risen is an alarm, as it is while the stage trains."""
    fields = run.config.get(stage)
    iterations = fields.get("iterations") if isinstance(fields, dict) else None
    return max(SOONEST, iterations // 2) if isinstance(iterations, int) else SOONEST


def _is_plain(name: str) -> bool:
    """Whether a figure belongs in the list under a stage: what has a table or a drawing of its own does not."""
    return name.split(".")[0] not in {
        "accuracy_by_domain",
        "accuracy_by_domain_ci",
        "pairs_by_domain",
        "reliability",
        "warnings",
        "verdicts",
        "alarms",
        "monitors",
        "kept",
        "failed",
        "stop_reason",
        "curve",
    }


def template(name: str) -> Any:
    """Load one of the pages' templates, which escapes whatever it is given.

    Args:
        name: the file, beside this one.
    """
    from jinja2 import Environment, StrictUndefined

    # Everything a run holds is text by strangers, and a name missing in the template is our mistake: both are strict.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8"))
