"""Checkpoints in Hugging Face's layout: what the rest of the library calls.

``load`` reads them and ``save`` writes them; both know a family by its table in ``families`` alone. ``config`` and
``config_save`` translate config.json, ``layout`` names and axes of tensors; ``models.weights`` knows the files.
"""

from rlhf_jax.models.huggingface.load import load_pretrained
from rlhf_jax.models.huggingface.save import save_pretrained
from rlhf_jax.models.weights import fingerprint

__all__ = ["fingerprint", "load_pretrained", "save_pretrained"]
