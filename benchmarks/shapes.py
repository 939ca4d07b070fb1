"""The models that are measured: shapes with random weights, which cost what trained ones cost."""

from __future__ import annotations

from rlhf_jax.models import ModelConfig

SHAPES = {
    "fast": ModelConfig(vocab_size=256, d_model=32, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=16, d_ff=64),
    "tiny": ModelConfig(vocab_size=8192, d_model=256, n_layers=4, n_heads=4, n_kv_heads=4, head_dim=64, d_ff=1024),
    "smol": ModelConfig(  # SmolLM2-135M
        vocab_size=49152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        d_ff=1536,
        rope_theta=100_000.0,
        norm_eps=1e-5,
    ),
    "1b": ModelConfig(  # Llama-3.2-1B
        vocab_size=128256,
        d_model=2048,
        n_layers=16,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        d_ff=8192,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        compute_dtype="bfloat16",
    ),
}
"""Beside ``fast``, which means nothing: ``tiny`` and ``smol`` for a CPU in float32, ``1b`` for an accelerator."""
