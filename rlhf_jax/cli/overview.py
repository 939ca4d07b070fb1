"""What ``rlhf`` alone says, in a few lines: which command comes next; and what ``rlhf --help`` says of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf_jax.cli import distributed
from rlhf_jax.cli.first_help import EXAMPLES
from rlhf_jax.cli.parsing import SUMMARIES
from rlhf_jax.stage_names import POLICY_STAGES, STAGES

_NEW = """\
RLHF in JAX: SFT, reward models, PPO and every objective beside them.

  see that it works    rlhf quickstart --fast        minutes; its figures mean nothing
  the whole pipeline   rlhf quickstart               on real human judgements
  your own data        {sft}
  then                 {reward}
  and                  {ppo}
  or, after sft,       {preference}
  a pretrained model   rlhf fetch smollm2-135m, then rlhf sft --init FOLDER
"""


def first_view(runs: Path) -> str:
    """Write what comes next: for somebody who has nothing yet, or after the newest run folder.

    Args:
        runs: where run folders usually lie.
    """
    lines = [_NEW.format(**EXAMPLES)]
    if newest := newest_run(runs):
        folder, done, begun, own = newest
        next_one = next_command(folder, done, begun, own=own)
        lines += [f"{folder} holds {', '.join(done) or 'no finished stage'}. Next: {next_one}\n"]
    lines.append("`rlhf --help` lists all commands, `rlhf COMMAND --help` what each needs first.")
    return "\n".join(lines)


def newest_run(runs: Path) -> tuple[Path, list[str], list[str], bool] | None:
    """Find the run folder that was written last.

    Args:
        runs: where run folders usually lie.

    Returns:
        The folder, its finished stages, those that were only begun, and whether it was trained on rows of one's own.
    """
    found = [folder for folder in runs.glob("*/config.json") if folder.is_file()]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime)
    try:
        held = json.loads(newest.read_text(encoding="utf-8"))
    except ValueError:  # not what a run leaves; the commands say so when they are asked
        return None
    begun = [stage.name for stage in STAGES if stage.name in held]
    done = [stage for stage in begun if (newest.parent / "params" / stage).is_dir()]
    own = any(_source(held[name]) not in ("", "human_sentiment") for name in begun)
    return newest.parent, done, [stage for stage in begun if stage not in done], own


def _source(config: Any) -> str:
    """Find where the rows of a recorded stage came from; empty where the record does not say."""
    data = config.get("data") if isinstance(config, dict) else None
    return str(data.get("source", "")) if isinstance(data, dict) else ""


def next_command(run: Path, done: list[str], begun: list[str], *, own: bool = False) -> str:
    """Write the command that comes after what a run folder holds.

    Args:
        run: the folder.
        done: its finished stages.
        begun: those that were only begun.
        own: whether they were trained on rows of one's own, which the next stage is then given too: without
            ``--data.source`` it would train on the quickstart's.

    Example:
        >>> next_command(Path("runs/mine"), ["sft"], [])
        'rlhf reward --init runs/mine --out runs/mine, or rlhf preference --policy runs/mine --out runs/mine'
        >>> next_command(Path("runs/mine"), ["sft", "reward"], [], own=True)
        'rlhf ppo --data.source prompts.jsonl --policy runs/mine --reward-model runs/mine --out runs/mine'
        >>> next_command(Path("runs/mine"), ["sft"], ["reward"])
        'the same rlhf reward command again, which continues it'
    """
    if begun:
        return f"the same rlhf {begun[-1]} command again, which continues it"
    here = f"{run} --out {run}"
    prompts, pairs = ("--data.source prompts.jsonl ", "--data.source pairs.jsonl ") if own else ("", "")
    if set(done) & (set(POLICY_STAGES) - {"sft"}):
        return f"rlhf chat {run}, rlhf report {run} or rlhf export {run} --to FOLDER"
    if {"sft", "reward"} <= set(done):
        return f"rlhf ppo {prompts}--policy {run} --reward-model {here}"
    if "sft" in done:
        return f"rlhf reward {pairs}--init {here}, or rlhf preference {pairs}--policy {here}"
    return f"rlhf sft --out {run}"


def overview(commands: Iterable[str]) -> str:
    """Write what every command is for."""
    lines = [
        "usage: rlhf COMMAND [options]",
        "",
        "RLHF in JAX: SFT, reward models, PPO and every objective beside them.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<11} {SUMMARIES[name]}" for name in commands]
    lines += ["", "`rlhf COMMAND --help` explains each; `--debug` shows where an error comes from; `rlhf --version`."]
    lines += ["Start with `rlhf quickstart`."]
    lines += ["", distributed.HELP, ""]
    lines += [
        "Compiled programs are kept in $RLHF_JAX_CACHE/compiled, by default ~/.cache/rlhf_jax/compiled;",
        "JAX_COMPILATION_CACHE_DIR moves them, JAX_ENABLE_COMPILATION_CACHE=0 keeps none.",
    ]
    return "\n".join(lines)
