"""What a model is: one frozen dataclass. Families differ in its fields, never in the code that reads them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer: pre-norm RMSNorm, rotary positions, grouped-query attention, gated MLP.

    The defaults are the quickstart's model: about 1.1 million parameters.

    Raises:
        ValueError: when the sizes do not fit together.
    """

    vocab_size: int = 4096
    """Tokens in the vocabulary; stages set it from the tokenizer."""
    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 3
    """Blocks, stacked and scanned."""
    n_heads: int = 2
    """Query heads."""
    n_kv_heads: int = 2
    """Key and value heads; fewer than `n_heads` is grouped-query attention."""
    head_dim: int = 64
    """Width of one head; even, for the rotary embedding."""
    d_ff: int = 344
    """Width of the gated MLP, about 8/3 of `d_model`."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square inside RMSNorm."""
    tie_embeddings: bool = True
    """The output head is the embedding table, transposed."""
    scalar_head: bool = False
    """A linear head to one number a token: reward models and critics."""
    compute_dtype: str = "float32"
    """Type of activations and matrix products: float32, or bfloat16 on an accelerator. Losses are float32 always."""
    remat: bool = False
    """Recompute each block in the backward pass: memory of one block's activations instead of all."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelConfig.{name} must be at least 1, found {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, found {self.head_dim}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype is float32 or bfloat16, found {self.compute_dtype!r}")
