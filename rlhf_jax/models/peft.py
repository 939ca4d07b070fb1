"""Adapters in PEFT's format, ``adapter_config.json`` beside ``adapter_model.safetensors``: what the library calls.

``peft_load`` reads them and ``peft_save`` writes them; ``peft_layout`` knows names, axes and fused matrices.
"""

from rlhf_jax.models.peft_load import load_peft
from rlhf_jax.models.peft_save import save_peft

__all__ = ["load_peft", "save_peft"]
