"""Text to token ids and back: the tokenizer, the files that hold it, and what stands around prompts and responses."""

from rlhf_jax.data.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
