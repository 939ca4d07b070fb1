"""What the page says of how a run was made: when, by which command, on what, and what was changed from the defaults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_jax import stages
from rlhf_jax.stages.titles import TITLES

MOST = 200  # rows of a table of figures; what it leaves out is counted below it

# Fields that every run has its own of, which say nothing of how it differs from others.
_PLACES = ("out",)


class Changed(NamedTuple):
    """One field that is not what it is by default."""

    field: str
    value: str
    default: str


def made(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(stage, what is known of how it was made): when it ended, its command, the hardware, and its seconds.

    Args:
        summary: as in ``summary.json``.

    Example:
        >>> made({"made": {"sft": {"finished": "2026-11-27 19:30 UTC"}}, "seconds": {"sft": 75.0}})
        [('Supervised fine-tuning', [('finished', '2026-11-27 19:30 UTC'), ('seconds', '75')])]
    """
    known, seconds = summary.get("made", {}), summary.get("seconds", {})
    found = []
    for stage in dict.fromkeys([*(name for name in TITLES if name in known or name in seconds), *known, *seconds]):
        rows = [(name, str(value)) for name, value in known.get(stage, {}).items() if value]
        rows += [("seconds", f"{seconds[stage]:,.0f}")] if stage in seconds else []
        found.append((TITLES.get(stage, stage), rows))
    if summary.get("peak_rss_mib") is not None:
        found.append(("", [("peak memory, MiB", f"{summary['peak_rss_mib']:,.0f}")]))
    return found


def latest(summary: Mapping[str, Any]) -> str:
    """When and on what the stage that ended last was made, for the head of the page; empty where that is not known."""
    entries = [entry for entry in summary.get("made", {}).values() if entry.get("finished")]
    if not entries:
        return ""
    last = max(entries, key=lambda entry: entry["finished"])
    hardware = f", on {last['hardware']}" if last.get("hardware") else ""
    return f"Finished {last['finished']}{hardware}."


def changed(stage: str, fields: Mapping[str, Any]) -> list[Changed]:
    """List the fields of a stage's config that are not what they are by default; none for a stage nobody knows.

    Args:
        stage: its name.
        fields: its config, as config.json has it.

    Example:
        >>> changed("sft", {"out": "runs/mine", "epochs": 7, "optimizer": {"b1": 0.9}})
        [Changed(field='epochs', value='7', default='2')]
    """
    kinds: dict[str, Any] = {
        "sft": stages.SFTConfig,
        "reward": stages.RewardConfig,
        "preference": stages.PreferenceConfig,
        "ppo": stages.PPOConfig,
        "group": stages.GroupConfig,
    }
    if stage not in kinds:
        return []
    usual = dict(flat(json.loads(json.dumps(dataclasses.asdict(kinds[stage]())))))
    return [
        Changed(name, value or "(empty)", usual.get(name, "") or "(empty)")
        for name, value in flat(fields)
        if value != usual.get(name, "") and name not in _PLACES
    ]


def groups(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One group of fields a stage, with those that were changed; fields that stand outside any stage come first.

    Args:
        config: as in ``config.json``.
    """
    loose = {key: value for key, value in config.items() if not isinstance(value, dict)}
    parts: list[tuple[str, Mapping[str, Any]]] = [(k, v) for k, v in config.items() if isinstance(v, dict)]
    return [
        {"name": TITLES.get(name, name), "fields": flat(fields), "changed": changed(name, fields)}
        for name, fields in [*([("", loose)] if loose else []), *parts]
    ]


def flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """(name, text) of every value in nested objects, names joined by points.

    Example:
        >>> flat({"model": {"d_ff": 64}, "rates": [0.1, 1e-5]})
        [('model.d_ff', '64'), ('rates', '0.1, 1e-05')]
    """
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            found += flat(item, name)
        else:
            found.append((name, _text(item)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
