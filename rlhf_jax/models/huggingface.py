"""Checkpoints in Hugging Face's layout: what the rest of the library calls.

``hf_load`` reads them and ``hf_save`` writes them; both know a family by its table in ``families`` alone. ``hf_config``
and ``hf_config_save`` translate config.json, ``hf_layout`` names and axes of tensors, ``weights`` files.
"""

from rlhf_jax.models.hf_load import load_pretrained
from rlhf_jax.models.hf_save import save_pretrained
from rlhf_jax.models.weights import fingerprint

__all__ = ["fingerprint", "load_pretrained", "save_pretrained"]
