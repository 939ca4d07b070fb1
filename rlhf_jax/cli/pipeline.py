"""The commands that train: each runs a stage, writes the report and says in plain sentences what came out."""

from __future__ import annotations

import dataclasses
import sys
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
    _finish(quickstart(config, after_stage=write_report if processes.first() else None))
    if o.fast and processes.first():
        print(f"quickstart: {_MINIATURE}", file=sys.stderr)


def sft(argv: list[str]) -> None:
    """Supervised fine-tuning."""
    from rlhf_jax import stages

    _finish(stages.sft(override(stages.SFTConfig(), "sft", argv)).directory)


def reward(argv: list[str]) -> None:
    """A reward model."""
    from rlhf_jax import stages

    _finish(stages.reward_model(override(stages.RewardConfig(), "reward", argv)).directory)


def ppo(argv: list[str]) -> None:
    """PPO."""
    from rlhf_jax import stages

    _finish(stages.ppo(override(stages.PPOConfig(), "ppo", argv)).directory)


def group(argv: list[str]) -> None:
    """Methods on groups of samples."""
    from rlhf_jax import stages

    _finish(stages.group(override(stages.GroupConfig(), "group", argv)).directory)


def preference(argv: list[str]) -> None:
    """Methods on comparisons."""
    from rlhf_jax import stages

    _finish(stages.preference(override(stages.PreferenceConfig(), "preference", argv)).directory)


def _finish(directory: Path) -> None:
    """Write the report, say in plain sentences what came out, and print where the report is."""
    from rlhf_jax import processes
    from rlhf_jax.report import verdicts, write_report
    from rlhf_jax.runs.folder import read_record

    if processes.first():
        report = write_report(directory)
        for verdict in verdicts(read_record(directory / "summary.json")):
            print(f"{verdict.kind:>7}: {verdict.text}", file=sys.stderr)
        print(report)
    processes.meet("the report")  # who is done first must not take the others for lost
