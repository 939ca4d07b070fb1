"""Models: configs, NNX modules, and the pure functions everybody else uses."""

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.functional import build, logits, members, with_scalar_head
from rlhf_jax.models.transformer import Cache

__all__ = ["Cache", "ModelConfig", "build", "logits", "members", "with_scalar_head"]
