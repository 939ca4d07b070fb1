"""Models: configs, NNX modules, and the pure functions everybody else uses."""

from rlhf_jax.models.config import LoRAConfig, ModelConfig, RopeScaling
from rlhf_jax.models.functional import build, logits, members, with_scalar_head
from rlhf_jax.models.lora import (
    adapter_off,
    add_adapters,
    has_adapters,
    join,
    member_axes,
    merge,
    quantise,
    split,
    unmerge,
)
from rlhf_jax.models.transformer import Cache

__all__ = [
    "Cache",
    "LoRAConfig",
    "ModelConfig",
    "RopeScaling",
    "adapter_off",
    "add_adapters",
    "build",
    "has_adapters",
    "join",
    "logits",
    "member_axes",
    "members",
    "merge",
    "quantise",
    "split",
    "unmerge",
    "with_scalar_head",
]
