"""GGUF files (llama.cpp's) in the shape of Hugging Face folders: ``read`` opens them, the tables say what is where."""

from rlhf_jax.models.gguf.read import read_gguf

__all__ = ["read_gguf"]
