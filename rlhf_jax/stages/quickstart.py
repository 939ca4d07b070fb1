"""The whole pipeline on real human judgements, from one config: SFT, reward model, PPO."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_jax import models, processes
from rlhf_jax.data.config import DataConfig
from rlhf_jax.fields import check_fields
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs import folder
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.store import open_run
from rlhf_jax.stages.config import check_kind
from rlhf_jax.stages.online.config import PPOConfig
from rlhf_jax.stages.ppo import ppo
from rlhf_jax.stages.reward_model import RewardConfig, reward_model
from rlhf_jax.stages.sft import SFTConfig, sft
from rlhf_jax.stages.sources import find_task

# Two prompts in a thousand are longer; padding all of them for those few would cost a seventh of PPO's time.
_PROMPT = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """The three stages of one run folder."""

    sft: SFTConfig
    reward: RewardConfig
    ppo: PPOConfig

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sft.out == self.reward.out == self.ppo.out:
            raise ValueError(f"the stages share one folder, found {self.sft.out}, {self.reward.out}, {self.ppo.out}")


def quickstart_config(*, out: str, seed: int = 0, fast: bool = False) -> QuickstartConfig:
    """Make the quickstart's config.

    Args:
        out: the run folder all stages share.
        seed: everything random comes from it.
        fast: a miniature of every stage: a small model, a tenth of the data, a few iterations.

    Returns:
        The configs of the three stages. Unless ``fast``, they differ from the defaults only in where the stages read
        and write, and in PPO's longest prompt.
    """
    place: dict[str, Any] = {"out": out, "seed": seed}
    if not fast:
        return QuickstartConfig(
            sft=SFTConfig(**place),
            reward=RewardConfig(**place, init=out),
            ppo=PPOConfig(**place, policy=out, reward_model=out, max_prompt_length=_PROMPT),
        )
    small: dict[str, Any] = {**place, "data": DataConfig(limit=1600)}
    tiny = models.ModelConfig(d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, d_ff=172)
    return QuickstartConfig(
        sft=SFTConfig(**small, model=tiny, vocab_size=1024, epochs=3, eval_every=20),
        reward=RewardConfig(**small, init=out, epochs=3, eval_every=20),
        ppo=PPOConfig(
            **small,
            policy=out,
            reward_model=out,
            max_prompt_length=_PROMPT,
            iterations=6,
            eval_every=3,
            checkpoint_every=3,
            eval_prompts=64,
            test_prompts=128,
            sampling=SamplingConfig(max_new_tokens=16),
        ),
    )


def quickstart(config: QuickstartConfig, *, after_stage: Callable[[Path], object] | None = None) -> Path:
    """Run the stages that the run folder does not hold yet: SFT, reward model, PPO.

    Args:
        config: from ``quickstart_config``.
        after_stage: called with the run folder whenever a stage is complete, as ``report.write_report`` can be.

    Returns:
        The run folder; its ``summary.json`` holds the results.
    """
    check_kind(config, QuickstartConfig, "quickstart")
    directory = open_run(config.sft.out)
    with locked(directory, "the quickstart"):
        return _quickstart(config, directory, after_stage)


def _quickstart(config: QuickstartConfig, directory: Path, after_stage: Callable[[Path], object] | None) -> Path:
    start, inside = time.monotonic(), 0.0
    stages: list[tuple[Callable[[Any], Any], Any]] = [
        (sft, config.sft),
        (reward_model, config.reward),
        (ppo, config.ppo),
    ]
    for stage, stage_config in stages:
        began = time.monotonic()
        stage(stage_config)
        inside += time.monotonic() - began
        if instructions := find_task(stage_config.data).instructions:
            folder.update_json(directory / "summary.json", {"prompts": dict(instructions)})
        if after_stage is not None:
            after_stage(directory)
    if not processes.first():
        return directory
    seconds = folder.read_record(directory / "summary.json")["seconds"]
    if "total" not in seconds:
        # The stages' own clocks go on over restarts; what lies around them is counted in this process.
        around = time.monotonic() - start - inside
        total = sum(seconds[field.name] for field in dataclasses.fields(config)) + around
        folder.update_json(directory / "summary.json", {"seconds": {"total": round(total, 1)}})
    return directory
