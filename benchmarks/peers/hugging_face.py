"""transformers on the same work: a training step of its Llama, and ``generate``."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from benchmarks.measure import Work
from benchmarks.peers.torch_llama import device
from benchmarks.peers.torch_steps import updates
from rlhf_jax.models import ModelConfig
from rlhf_jax.types import SequenceBatch


def llama_config(config: ModelConfig) -> transformers.LlamaConfig:
    """Write a shape as transformers does."""
    transformers.logging.set_verbosity_error()
    return transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.d_ff,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=None,
    )


def sft(config: ModelConfig, batch: SequenceBatch) -> Work:
    """A training step with the model's own loss; layers are recomputed where ours are."""
    with device():  # as in torch_steps, weights are drawn where they lie
        model = transformers.LlamaForCausalLM(llama_config(config)).train()
    if config.remat != "none":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tokens = torch.tensor(batch.tokens[:, 0], dtype=torch.long, device=device())
    return updates(model, config, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss)


def generate(config: ModelConfig, prompts: np.ndarray, new: int) -> Work:
    """Sample ``new`` tokens after each prompt, at temperature 1."""
    kind = torch.bfloat16 if config.compute_dtype == "bfloat16" else torch.float32
    with device():
        model = transformers.LlamaForCausalLM(llama_config(config)).to(kind).eval()
    tokens = torch.tensor(prompts, dtype=torch.long, device=device())
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}

    def run() -> int:
        with torch.inference_mode():
            out = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, **drawn)
        if tokens.device.type == "cuda":
            torch.cuda.synchronize()
        assert out.shape[1] == tokens.shape[1] + new
        return out.numel()

    return run
