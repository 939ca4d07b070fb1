"""The sizes of Llama 3 8B, which plans and searches are checked with: no weight of it is ever made."""

from rlhf_jax import models

LLAMA3_8B = models.ModelConfig(
    vocab_size=128_256,
    d_model=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    d_ff=14_336,
    tie_embeddings=False,
    compute_dtype="bfloat16",
)
