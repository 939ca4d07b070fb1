"""``rlhf rounds``: sample, choose, label, retrain the reward model and train the policy on, round after round."""

from __future__ import annotations

import sys
from typing import Any

import tyro

from rlhf_jax.cli.first_help import options_help
from rlhf_jax.cli.parsing import UsageError, describe, file_and_mesh

_USAGE = "rlhf rounds --policy runs/mine --reward-model runs/mine --label people --out runs/rounds"
_MORE = (
    "All options, those of the stages too (--reward.epochs, --ppo.iterations, ...): rlhf rounds --help-all. "
    "--config FILE.py takes the defaults from a Python file that defines `config`."
)


def rounds(argv: list[str]) -> None:
    """Run rounds, and print what each came to and where the last policy is."""
    from rlhf_jax import stages

    config, rest = file_and_mesh(stages.RoundsConfig(), argv)
    if {"-h", "--help"} & set(rest):
        print(f"usage: rlhf rounds [options]\n\n{describe('rounds')}\n\n  {_USAGE}\n")
        print(options_help("rounds", config))
        print(_MORE)
        raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    try:
        config = tyro.cli(
            stages.RoundsConfig, default=config, prog="rlhf rounds", description=describe("rounds"), args=rest
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    from rlhf_jax.report import write_report
    from rlhf_jax.stages.attempt import page_follows

    before = page_follows.set(True)
    try:
        result = stages.rounds(config, after_round=write_report)
    finally:
        page_follows.reset(before)
    for each in result.rounds:
        print(_said(each), file=sys.stderr)
    print(result.last)


def _said(figures: dict[str, Any]) -> str:
    """Say in a sentence what a round came to."""
    chosen = ", ".join(f"{count:,} {kind}" for kind, count in figures["chosen"].items() if count)
    right = figures["reward_accuracy"]
    parts = [f"round {figures['round']}: {figures['pairs']:,} pairs ({chosen})"]
    told = [f"{_share(right[when])} {when}" for when in ("before", "after") if when in right]
    if right["after"]["pairs"]:
        parts.append(f"reward model right on {' and '.join(told)} retraining, of {right['after']['pairs']:,} held out")
    policy = figures["policy"]
    parts.append(f"KL {policy['kl']:.1f} nats")
    parts += [
        f"{name.removesuffix('_win_rate')} prefers it {100 * policy[name]:.1f}% of the time"
        for name in policy
        if name.endswith("_win_rate") and name != "proxy_win_rate"
    ]
    return "; ".join(parts)


def _share(found: dict[str, Any]) -> str:
    return f"{100 * found['accuracy']:.1f}%"
