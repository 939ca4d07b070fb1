"""Rounds on the tiny task, as a process that ends where a test wants it to: ``python rounds_task.py FOLDER HOW``.

FOLDER gets the data and the SFT policy; better responses hold more of the letter ``a``. HOW is ``whole``, or where the
process kills itself: in which measurement of a policy.
"""

import os
import signal
import sys
from pathlib import Path

import tiny_task
from tiny_task import count_a, data, ppo_config, preference_config, reward_config

from rlhf_jax import stages
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import ChooseConfig, Judges, RoundsConfig


def base(folder):
    """The data and the policy that rounds start from, where they are not there yet."""
    table = tiny_task.write_data(Path(folder) / "data")
    place = Path(folder) / "base"
    if not (place / "params" / "sft").exists():
        stages.sft(tiny_task.sft_config(table, place, epochs=1, patience=0))


def rounds_config(folder, **changes):
    folder = Path(folder)
    table, out = folder / "data", folder / "base"
    fields = {
        "out": str(folder / "rounds"),
        "policy": str(out),
        "reward_model": "",
        "prompts": 12,
        "old_pairs": 16,
        "old_heldout": 8,
        "label": "gold",
        "choose": ChooseConfig(random=10, disputed=0),
        "sampling": SamplingConfig(max_new_tokens=8, window=4),
        "reward": reward_config(table, "unused", init="unused", table="preference", epochs=1),
        "ppo": ppo_config(table, "unused", policy="unused", iterations=2),
        "preference": preference_config(table, "unused", policy="unused", prompts=data(table, "prompts")),
    }
    return RoundsConfig(**{**fields, **changes})


def dies(call):
    """End this process in a call of what measures a policy, counted from 1."""
    measure, left = Judges.measure, [call]

    def measured(self, policy, sampled, prompts):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(self, policy, sampled, prompts)

    Judges.measure = measured


if __name__ == "__main__":
    place, how = sys.argv[1:]
    base(place)
    if how != "whole":
        dies(int(how))
    stages.rounds(rounds_config(place), judges={"gold": count_a})
