"""What the recipes for pods have in common: the models' sizes, their options, compiling and running.

Not an experiment itself: its neighbours are. Each of them is a config for one slice of TPUs, compiled in full for that
slice, all layers and every program of an iteration, on a machine without a TPU. ``--compile`` does that again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax import models, parallel, stages
from rlhf_jax.cli.aot import save, say_compiling, show
from rlhf_jax.data.config import DataConfig
from rlhf_jax.parallel.topologies import topology
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.ahead import compile_for
from rlhf_jax.training import OptimizerConfig

PROMPT, RESPONSE = 512, 512  # tokens
_LLAMA: dict[str, Any] = {
    "vocab_size": 128_256,
    "n_kv_heads": 8,
    "head_dim": 128,
    "tie_embeddings": False,
    "rope_theta": 500_000.0,
    "norm_eps": 1e-5,
    "compute_dtype": "bfloat16",
    "remat": "block",
}
LLAMA3_8B = models.ModelConfig(**_LLAMA, d_model=4096, n_layers=32, n_heads=32, d_ff=14_336)
LLAMA3_70B = models.ModelConfig(**_LLAMA, d_model=8192, n_layers=80, n_heads=64, d_ff=28_672)


class Pod(NamedTuple):
    """A model on a slice."""

    topology: str
    sizes: models.ModelConfig
    mesh: parallel.MeshConfig
    prompts: int
    minibatches: int
    rank: int = 0  # of adapters; 0 trains all weights
    rate: float = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a recipe for a pod."""

    policy: str = "runs/sft"
    """Run folder of the SFT policy."""
    reward_model: str = "runs/reward"
    """Run folder of the reward model."""
    data: str = "hf:Anthropic/hh-rlhf"
    """Where the prompts come from."""
    out: str = "runs/pod"
    """The run folder."""
    compile: bool = False
    """Train nothing: compile every program for the slice, on this machine, and print what it takes. Needs libtpu."""
    json: Path | None = None
    """With `--compile`, a file for the figures."""
    hlo: Path | None = None
    """With `--compile`, a folder for the programs' texts."""


def config(pod: Pod, options: Options) -> stages.PPOConfig:
    """Make the stage's config: one pass over the samples of an iteration, KL in the reward."""
    optimizer = OptimizerConfig(learning_rate=pod.rate, weight_decay=0.0)
    return stages.PPOConfig(
        out=options.out,
        policy=options.policy,
        reward_model=options.reward_model,
        data=DataConfig(source=options.data),
        mesh=pod.mesh,
        lora=models.LoRAConfig(rank=pod.rank),
        remat="block",
        prompts=pod.prompts,
        max_prompt_length=PROMPT,
        sampling=SamplingConfig(max_new_tokens=RESPONSE, window=32),
        epochs=1,
        minibatches=pod.minibatches,
        policy_optimizer=optimizer,
        critic_optimizer=optimizer,
    )


def main(pod: Pod, options: Options) -> None:
    """Train on the devices that are there, or compile for the slice."""
    if not options.compile:
        stages.ppo(config(pod, options))
        return
    slice_ = topology(pod.topology)
    asked = config(pod, options)
    found = compile_for(slice_, "ppo", asked, sizes=pod.sizes, hlo=options.hlo, tell=say_compiling)
    show(found)
    save(found, options.json)
