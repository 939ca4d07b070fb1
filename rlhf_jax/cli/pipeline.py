"""The commands that train: each runs a stage, writes the report and says in plain sentences what came out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from rlhf_jax.cli.parsing import override, parse

_MINIATURE = (
    "--fast is a miniature, to see that everything works: its figures and verdicts mean nothing; without --fast they do"
)


@dataclasses.dataclass(frozen=True)
class QuickstartOptions:
    """Options of the quickstart."""

    seed: int = 0
    """Everything random comes from it."""
    out: str = ""
    """The run folder; runs/quickstart-seedN by default. The same folder continues where it stopped."""
    fast: bool = False
    """A miniature of every stage in under two minutes, to see that everything works; its figures mean nothing."""


def quickstart(argv: list[str]) -> None:
    """The three stages of the quickstart."""
    o = parse(QuickstartOptions, "quickstart", argv)
    from rlhf_jax import processes
    from rlhf_jax.report import write_report
    from rlhf_jax.stages import quickstart, quickstart_config

    out = o.out or f"runs/quickstart-seed{o.seed}{'-fast' if o.fast else ''}"
    config = quickstart_config(out=out, seed=o.seed, fast=o.fast)
    if o.fast:
        print(f"quickstart: {_MINIATURE}", file=sys.stderr)
    _run(lambda: quickstart(config, after_stage=write_report if processes.first() else None), out)
    if o.fast and processes.first():
        print(f"quickstart: {_MINIATURE}", file=sys.stderr)


def sft(argv: list[str]) -> None:
    """Supervised fine-tuning."""
    from rlhf_jax import stages

    config = override(stages.SFTConfig(), "sft", argv)
    _run(lambda: stages.sft(config).directory, config.out, "sft")


def reward(argv: list[str]) -> None:
    """A reward model."""
    from rlhf_jax import stages

    config = override(stages.RewardConfig(), "reward", argv)
    _run(lambda: stages.reward_model(config).directory, config.out, "reward")


def ppo(argv: list[str]) -> None:
    """PPO."""
    from rlhf_jax import stages

    config = override(stages.PPOConfig(), "ppo", argv)
    _run(lambda: stages.ppo(config).directory, config.out, "ppo")


def group(argv: list[str]) -> None:
    """Methods on groups of samples."""
    from rlhf_jax import stages

    config = override(stages.GroupConfig(), "group", argv)
    _run(lambda: stages.group(config).directory, config.out, "group")


def preference(argv: list[str]) -> None:
    """Methods on comparisons."""
    from rlhf_jax import stages

    config = override(stages.PreferenceConfig(), "preference", argv)
    _run(lambda: stages.preference(config).directory, config.out, "preference")


def _run(train: Callable[[], Path], out: str, stage: str = "") -> None:
    """Train, and say what came out; where updates were not finite that is said too, before the error.

    Args:
        train: runs one stage or all, and returns the run folder.
        out: the run folder or its URL, for when it raises.
        stage: the stage that is run; empty where it is all of the folder.
    """
    from rlhf_jax.runs.store import local
    from rlhf_jax.stages.attempt import page_follows
    from rlhf_jax.training import SkippedUpdates

    before = page_follows.set(True)
    try:
        directory = train()
    except SkippedUpdates:
        _finish(local(out), stage)
        raise
    finally:
        page_follows.reset(before)
    _finish(directory, stage)


def _finish(directory: Path, stage: str) -> None:
    """Write the report, say in plain sentences what came out of the stage, and print where the report is.

    What earlier stages of the folder came to was said at their own end, and stands on the page.
    """
    from rlhf_jax import processes
    from rlhf_jax.report import alarm_verdicts, verdicts, write_report
    from rlhf_jax.runs.folder import read_record
    from rlhf_jax.runs.store import mirror_of
    from rlhf_jax.stages.verdicts import stage_verdicts

    if processes.first():
        report = write_report(directory)
        if mirror := mirror_of(directory):
            mirror.send_logs()
        summary = read_record(directory / "summary.json")
        found = stage_verdicts(stage, summary) if stage else verdicts(summary)
        alarms = alarm_verdicts({stage: summary.get(stage, {})} if stage else summary)
        for verdict in (*found, *alarms):
            print(f"{verdict.kind:>7}: {verdict.text}", file=sys.stderr)
        print(report)
    processes.meet("the report")  # who is done first must not take the others for lost
