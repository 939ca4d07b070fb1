"""Rounds on the tiny task, small enough to be killed in a test: ``python rounds_task.py FOLDER METHOD SECONDS``.

FOLDER holds the data, the SFT policy and the first reward model; better responses hold more of the letter ``a``.
"""

import sys
from pathlib import Path

import tiny_task
from tiny_task import count_a, data, ppo_config, preference_config, reward_config

from rlhf_jax import stages
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import ChooseConfig, RoundsConfig


def base(folder):
    """The policy and the reward model that rounds start from."""
    folder = Path(folder)
    table = tiny_task.write_data(folder / "data")
    stages.sft(tiny_task.sft_config(table, folder / "base", epochs=2, patience=0))
    stages.reward_model(reward_config(table, folder / "base", init=folder / "base", epochs=1))
    return folder


def rounds_config(folder, **changes):
    folder = Path(folder)
    table, out = folder / "data", folder / "base"
    fields = {
        "out": str(folder / "rounds"),
        "policy": str(out),
        "reward_model": str(out),
        "prompts": 12,
        "old_pairs": 16,
        "old_heldout": 8,
        "label": "gold",
        "choose": ChooseConfig(random=4, disputed=6),
        "sampling": SamplingConfig(max_new_tokens=8, window=4),
        "reward": reward_config(table, "unused", init="unused", epochs=1),
        "ppo": ppo_config(table, "unused", policy="unused", iterations=2),
        "preference": preference_config(table, "unused", policy="unused", epochs=1, prompts=data(table, "prompts")),
    }
    return RoundsConfig(**{**fields, **changes})


if __name__ == "__main__":
    place, method, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    tiny_task.slow_down(seconds)
    stages.rounds(rounds_config(place, method=method), judges={"gold": count_a})
