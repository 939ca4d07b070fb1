"""What the published recipes have in common: their options, and where their models and data sets lie.

Not an experiment itself: ``tldr.py``, ``hh.py`` and ``ultrafeedback.py`` are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rlhf_jax import models
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.runs.pretrained import is_checkpoint
from rlhf_jax.training import OptimizerConfig

# Parameters and optimiser are split over all devices: no recipe's fit on one of them.
MESH = MeshConfig(data=1, fsdp=-1)
# Adapters learn well at about ten times the rate that suits all weights.
ADAPTER_RATE = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line of every recipe takes."""

    model: str
    """Folder of the pretrained model: config.json, safetensors and tokenizer.json."""
    out: str
    """The run folder. The same command with the same folder continues where it stopped."""
    data: str = ""
    """A folder that holds every data set in a folder of its own, named like it without what stands before the slash
    (`tldr` for trl-lib/tldr); from the Hugging Face hub by default."""
    lora_rank: int = 0
    """Train adapters of this rank in place of all weights, at ten times the learning rates."""
    seed: int = 0
    """Everything random comes from it."""
    fast: bool = False
    """A miniature of every stage, in float32: a few rows and a few steps, to see that everything works."""

    def stage(self) -> dict[str, Any]:
        """The fields that all stages share."""
        lora = models.LoRAConfig(rank=self.lora_rank)
        return {"out": self.out, "seed": self.seed, "mesh": MESH, "lora": lora, "checkpoint_every": 200}

    def precision(self) -> models.ModelConfig:
        """What a pretrained model takes from ``SFTConfig.model``: bfloat16 products, every block computed again."""
        if self.fast:
            return models.ModelConfig()
        return models.ModelConfig(compute_dtype="bfloat16", remat="block")

    def optimizer(self, learning_rate: float, **other: Any) -> OptimizerConfig:
        """AdamW with PyTorch's second moment, which all three recipes used."""
        factor = ADAPTER_RATE if self.lora_rank else 1.0
        return OptimizerConfig(learning_rate=learning_rate * factor, b2=0.999, **other)

    def source(self, name: str) -> str:
        """A data set, ``org/name`` or ``org/name:config``, on the hub or below the folder ``data``."""
        if not self.data:
            return f"hf:{name}"
        return str(Path(self.data, *name.split("/")[-1].split(":")))

    def check_model(self, name: str) -> None:
        """Stop with what to do when there is no checkpoint in the model's folder."""
        if not is_checkpoint(self.model):
            raise SystemExit(
                f"{self.model}: no pretrained model there (config.json, *.safetensors). Models are read from folders: "
                f"hf download {name} --include '*.json' '*.safetensors' --local-dir {self.model} (huggingface-cli "
                "download in older versions) gets this one, --model FOLDER takes another"
            )
