"""tunix's sampler on a Llama of the same shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3.model import Llama3
from tunix.models.llama3.model import ModelConfig as TunixConfig

from benchmarks.measure import Work
from rlhf_jax.models import ModelConfig


class _Numbers:
    """A tokenizer whose text is token ids, written as numbers."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0  # none is put before a prompt

    def eos_id(self) -> int:
        return -1  # nothing ends a response early

    def pad_id(self) -> int:
        return 0


def generate(config: ModelConfig, prompts: np.ndarray, new: int) -> Work:
    """Sample ``new`` tokens after each prompt, at temperature 1, and return their log-probabilities."""
    shape = TunixConfig(
        num_layers=config.n_layers,
        vocab_size=config.vocab_size,
        embed_dim=config.d_model,
        hidden_dim=config.d_ff,
        num_heads=config.n_heads,
        head_dim=config.head_dim,
        num_kv_heads=config.n_kv_heads,
        rope_theta=int(config.rope_theta),
        norm_eps=config.norm_eps,
        weight_tying=True,
    )
    model = Llama3(shape, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.dtype(config.compute_dtype)), state))
    cache = CacheConfig(prompts.shape[1] + new, config.n_layers, config.n_kv_heads, config.head_dim)
    sampler = Sampler(model, _Numbers(), cache)
    texts = [" ".join(map(str, row)) for row in prompts.clip(1).tolist()]  # 0 is its padding

    def run() -> int:
        drawn = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "return_logprobs": True}
        out = sampler(texts, max_generation_steps=new, max_prompt_length=prompts.shape[1], **drawn)
        written = sum(len(row) for row in out.tokens)
        assert written == prompts.shape[0] * new, written
        return written

    return run
