"""Rounds on the tiny task, as a process that ends where a test wants it to: ``python rounds_task.py FOLDER HOW``.

FOLDER gets the data, the SFT policy and the first reward model; better responses hold more of the letter ``a``. HOW is
``whole``, ``preference`` (one round on people's votes, without samples), or where the process kills itself:
``drawn1`` (after the file of round 1 is written), ``reward:STEP`` or ``gold:CALL``.
"""

import importlib
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
    """The data, the policy and the reward model that rounds start from, where they are not there yet."""
    table = tiny_task.write_data(Path(folder) / "data")
    place = Path(folder) / "base"
    if not (place / "params" / "reward").exists():
        stages.sft(tiny_task.sft_config(table, place, epochs=2, patience=0))
        stages.reward_model(reward_config(table, place, init=place, epochs=1, members=2))


def rounds_config(folder, **changes):
    folder = Path(folder)
    table, out = folder / "data", folder / "base"
    pairs = {"table": "preference", "epochs": 1}
    fields = {
        "out": str(folder / "rounds"),
        "policy": str(out),
        "reward_model": str(out),
        "prompts": 12,
        "old_pairs": 16,
        "old_heldout": 8,
        "label": "gold",
        "choose": ChooseConfig(random=4, disputed=4, hard=2, judge=f"{__file__}:shorter"),
        "sampling": SamplingConfig(max_new_tokens=8, window=4),
        "reward": reward_config(table, "unused", init="unused", members=2, **pairs),
        "ppo": ppo_config(table, "unused", policy="unused", iterations=2),
        "preference": preference_config(table, "unused", policy="unused", epochs=1, prompts=data(table, "prompts")),
    }
    return RoundsConfig(**{**fields, **changes})


def on_votes(folder):
    """One round of preference optimisation on what people said before, without samples."""
    changes = {"method": "preference", "candidates": "data", "label": "votes", "rounds": 1, "old_pairs": 8}
    return rounds_config(folder, out=str(Path(folder) / "votes"), choose=ChooseConfig(random=8, disputed=0), **changes)


def shorter(prompts, responses):
    return [-float(len(response)) for response in responses]


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
        original = batches.MemberBatches.__getitem__

        def fetched(self, step):
            down()
            return original(self, step)

        batches.MemberBatches.__getitem__ = fetched
    if what == "drawn1":
        rounds = importlib.import_module("rlhf_jax.stages.rounds.rounds")  # the package has a function of this name
        written = rounds.write

        def writes(path, rows):
            written(path, rows)
            if path.parts[-2:] == ("round1", "drawn.jsonl"):
                die()

        rounds.write = writes
    return gold


if __name__ == "__main__":
    place, how = sys.argv[1:]
    base(place)
    gold = dies(how)
    if how == "preference":
        stages.rounds(on_votes(place), judges={"gold": gold})
    else:
        stages.rounds(rounds_config(place), judges={"gold": gold})
