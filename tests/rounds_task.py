"""Rounds on the tiny task, as a process that ends where a test wants it to: ``python rounds_task.py FOLDER HOW``.

FOLDER gets the data and the SFT policy; better responses hold more of the letter ``a``. HOW is ``whole``, or where the
process kills itself: ``reward:STEP`` or ``gold:CALL``.
"""

import os
import signal
import sys
from pathlib import Path

import tiny_task
from tiny_task import count_a, data, ppo_config, preference_config, reward_config

from rlhf_jax import stages
from rlhf_jax.data import batches
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import ChooseConfig, RoundsConfig


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


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dies(how):
    """Patch what is to end the process, and return the gold judge."""
    what, _, count = how.partition(":")
    left = [int(count or 0)]

    def down():
        left[0] -= 1
        if not left[0]:
            die()

    def gold(prompts, responses):
        if what == "gold":
            down()
        return count_a(prompts, responses)

    if what == "reward":
        original = batches.PackedEpochs.__getitem__

        def fetched(self, step):
            if (Path(place) / "rounds" / "round1" / "labels.jsonl").exists():
                down()
            return original(self, step)

        batches.PackedEpochs.__getitem__ = fetched
    return gold


if __name__ == "__main__":
    place, how = sys.argv[1:]
    base(place)
    stages.rounds(rounds_config(place), judges={"gold": dies(how)})
