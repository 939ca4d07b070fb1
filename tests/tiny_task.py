"""A task small enough to run every stage in seconds, and the same stages as a process to be killed.

The data is text about animals; better responses hold more of the letter ``a``.

    python tiny_task.py STAGES FOLDER SECONDS_A_STEP

It is one of several processes where the environment says so (``several.py``).
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

from rlhf_jax import models, parallel, processes
from rlhf_jax.data.parts import halve
from rlhf_jax.data.rows import PromptRow
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import (
    DataConfig,
    GroupConfig,
    KLConfig,
    PPOConfig,
    PreferenceConfig,
    PTXConfig,
    RewardConfig,
    SFTConfig,
    group,
    ppo,
    preference,
    reward_model,
    sft,
)
from rlhf_jax.training import Interrupted, OptimizerConfig

ANIMALS = ("cat", "dog", "hen", "fox", "owl", "cow", "bee", "ant", "elk", "yak", "pig", "rat")
GOOD, BAD = ("sat", "ran", "ate", "had", "a", "far", "bath", "vast"), ("rose", "fell", "went", "the", "hop", "low")


def sentence(rng, words):
    return " ".join(rng.choice(words, size=rng.integers(2, 6)).tolist())


def tables():
    rng = np.random.default_rng(0)
    prompts = [f"The {animal} {word}" for animal in ANIMALS for word in ("and", "or", "with")]
    both = GOOD + BAD
    demonstrations = [{"prompt": p, "response": sentence(rng, both)} for p in prompts for _ in range(2)]
    good = [sentence(rng, GOOD) for _ in prompts]
    bad = [sentence(rng, BAD) for _ in prompts]
    each = list(zip(prompts, good, bad, strict=True))

    later = np.random.default_rng(1)  # what was added later leaves the rows before it as they were
    unseen = [{"prompt": p, "chosen": sentence(later, GOOD), "rejected": sentence(later, BAD)} for p in prompts]

    def rated(text, mean):
        return {"response": text, "ratings": (mean + rng.integers(-1, 2, size=5)).tolist()}

    return {
        "demonstrations": demonstrations,
        "chosen": [{"prompt": p, "chosen": g, "rejected": b} for p, g, b in each],
        # Every other row the other way round, so that "a" is not always the better one.
        "preference": [
            {"prompt": p, "a": (g, b)[i % 2], "b": (b, g)[i % 2], "preference": (0.9, "b")[i % 2]}
            for i, (p, g, b) in enumerate(each)
        ],
        "ratings": [
            {"prompt": f"About the {animal}", **row}
            for animal in ANIMALS
            for _ in range(3)
            for row in (rated(sentence(rng, GOOD), 3), rated(sentence(rng, BAD), -2))
        ],
        "prompts": [{"prompt": p} for p in prompts],
        "unseen": unseen,
        "text": [{"text": f"{sentence(later, both)}. {sentence(later, both)}."} for _ in range(24)],
    }


def write_data(folder):
    """All tables as .jsonl files in a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def half(file, part):
    """The rows of a held-out file that choose the best checkpoint (0), or give the final figures (1)."""
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    kept = {row.prompt for row in halve([PromptRow(row["prompt"], "") for row in rows])[part]}
    return [row for row in rows if row["prompt"] in kept]


def data(folder, name, **changes):
    return DataConfig(source=str(Path(folder) / f"{name}.jsonl"), max_length=32, **changes)


MODEL = models.ModelConfig(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=32)
PACKED = {"rows": 8, "row_length": 32, "eval_every": 3, "checkpoint_every": 3}


def sft_config(data_folder, out, **changes):
    fast = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
    size = {"vocab_size": 300, "model": MODEL, "epochs": 2, "optimizer": fast, **PACKED}
    return SFTConfig(out=str(out), data=data(data_folder, "demonstrations"), **{**size, **changes})


def reward_config(data_folder, out, *, init, table="chosen", **changes):
    fast = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
    size = {"epochs": 3, "optimizer": fast, "group_size": 4, **PACKED}
    return RewardConfig(out=str(out), init=str(init), data=data(data_folder, table), **{**size, **changes})


def preference_config(data_folder, out, *, policy, table="chosen", **changes):
    """On 36 pairs, measured on 36 others."""
    settings = {
        "data": data(data_folder, table, heldout=str(Path(data_folder) / "unseen.jsonl")),
        "epochs": 5,
        "optimizer": OptimizerConfig(learning_rate=4e-3, weight_decay=0.0),
        "sampling": SamplingConfig(max_new_tokens=8, window=4),
        "eval_prompts": 8,
        "test_prompts": 8,
        "patience": 0,
        **PACKED,
    }
    places = {"out": str(out), "policy": str(policy), "prompts": data(data_folder, "prompts")}
    return PreferenceConfig(**{**places, **settings, **changes})


ONLINE = {
    "iterations": 3,
    "prompts": 16,
    "epochs": 2,
    "minibatches": 2,
    "eval_every": 2,
    "eval_prompts": 8,
    "test_prompts": 8,
    "checkpoint_every": 1,
    "sampling": SamplingConfig(max_new_tokens=8, window=4),
    "policy_optimizer": OptimizerConfig(learning_rate=3e-3, weight_decay=0.0),
}


def ppo_config(data_folder, out, *, policy, reward=".", **changes):
    places = {"out": str(out), "policy": str(policy), "reward_model": str(reward)}
    return PPOConfig(**places, data=data(data_folder, "prompts"), **{**ONLINE, **changes})


def group_config(data_folder, out, *, policy, reward=".", **changes):
    places = {"out": str(out), "policy": str(policy), "reward_model": str(reward)}
    settings = {**ONLINE, "prompts": 8, "samples": 4, "epochs": 1}
    return GroupConfig(**places, data=data(data_folder, "prompts"), **{**settings, **changes})


def compared(run):
    """The rows of samples.jsonl that compare the policy with the one it started from."""
    rows = [json.loads(line) for line in (run.directory / "samples.jsonl").read_text().splitlines()]
    return [row for row in rows if "before" in row]


def count_a(prompts, responses):
    """A reward on text: how often the letter a comes."""
    return [float(r.count("a")) for r in responses]


def run_stage(stage, folder, slow=lambda: None):
    """One stage of the folder's task; ``slow`` is called inside it every now and then."""
    folder = Path(folder)
    table = Path(processes.from_first(lambda: str(write_data(folder / "data")), "the data"))
    if stage == "sft":
        return sft(sft_config(table, folder / "run", epochs=6, patience=0))
    if stage == "reward":
        return reward_model(
            reward_config(table, folder / "run", init=folder / "run", table="ratings", epochs=8, members=2, patience=0)
        )

    if stage == "preference":
        kto = {"objective": "kto", "hyperparameters": {"beta": 0.2}}
        return preference(
            preference_config(table, folder / "run", policy=folder / "run", **kto), judges={"gold": count_a}
        )

    def reward(prompts, responses):
        slow()
        return count_a(prompts, responses)

    again = {"accept_changed": ("reward",)}  # how long it sleeps is a part of it

    if stage == "group":
        text = PTXConfig(coef=0.1, data=data(table, "text"), rows=2)
        banded = KLConfig(kind="banded", coef=0.02, low=0.01, high=0.02)
        return group(
            group_config(
                table,
                folder / "run",
                policy=folder / "run",
                iterations=6,
                checkpoint_every=2,
                ptx=text,
                kl=banded,
                **again,
            ),
            reward=reward,
        )
    # "long": enough iterations, each saved, to be killed in many times
    size = {"iterations": 24, "checkpoint_every": 1} if stage == "long" else {"iterations": 6, "checkpoint_every": 2}
    return ppo(ppo_config(table, folder / "run", policy=folder / "run", **size, **again), reward=reward)


def slow_down(seconds):
    """Every step of every stage takes this much longer, so that it can be stopped in the middle."""
    from rlhf_jax.data import batches

    original = batches.PackedEpochs.__getitem__

    def slowly(self, step):
        time.sleep(seconds)
        return original(self, step)

    batches.PackedEpochs.__getitem__ = slowly


if __name__ == "__main__":
    parallel.initialize()  # joins others where the environment speaks of them
    name, place, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    slow_down(seconds / 4)  # evaluations fetch batches too
    try:
        for each in name.split(","):
            result = run_stage(each, place, lambda: time.sleep(seconds))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    assert dataclasses.is_dataclass(result)
