"""Models: configs, NNX modules, and the pure functions that everybody else uses."""

from rlhf_jax.files import CheckpointError
from rlhf_jax.models.config import LoRAConfig, ModelConfig, RopeScaling
from rlhf_jax.models.ensemble import member, member_axes, members
from rlhf_jax.models.functional import build, logits, with_scalar_head
from rlhf_jax.models.heads import ValueHead
from rlhf_jax.models.huggingface import load_pretrained, save_pretrained
from rlhf_jax.models.lora import (
    adapter_off,
    add_adapters,
    first_layers,
    has_adapters,
    join,
    quantise,
    quantise_blocks,
    split,
)
from rlhf_jax.models.lora_fold import concatenate_adapters, merge, unmerge
from rlhf_jax.models.output_head import OutputHead, output_head
from rlhf_jax.models.peft import load_peft, save_peft
from rlhf_jax.models.token_kl import token_kl
from rlhf_jax.models.weights import fingerprint
from rlhf_jax.renamed import renamed
from rlhf_jax.types import Cache

__all__ = [
    "Cache",
    "CheckpointError",
    "LoRAConfig",
    "ModelConfig",
    "OutputHead",
    "RopeScaling",
    "ValueHead",
    "adapter_off",
    "add_adapters",
    "build",
    "concatenate_adapters",
    "fingerprint",
    "first_layers",
    "has_adapters",
    "join",
    "load_peft",
    "load_pretrained",
    "logits",
    "member",
    "member_axes",
    "members",
    "merge",
    "output_head",
    "quantise",
    "quantise_blocks",
    "save_peft",
    "save_pretrained",
    "split",
    "token_kl",
    "unmerge",
    "with_scalar_head",
]

__getattr__ = renamed(__name__, {"stack": "models.concatenate_adapters"})
