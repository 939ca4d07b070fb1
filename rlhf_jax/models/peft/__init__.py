"""Adapters in PEFT's format, ``adapter_config.json`` beside ``adapter_model.safetensors``: what the library calls.

``load`` reads them and ``save`` writes them; ``layout`` knows names, axes and fused matrices.
"""

from rlhf_jax.models.peft.load import load_peft
from rlhf_jax.models.peft.save import save_peft

__all__ = ["load_peft", "save_peft"]
