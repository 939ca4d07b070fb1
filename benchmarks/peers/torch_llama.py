"""The network by hand in torch: what a plain training loop without any library on top reaches."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import nn

from rlhf_jax.models import ModelConfig


def device() -> torch.device:
    """Choose the device that torch runs on, with all cores of a CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch.device("cpu")


class Block(nn.Module):
    """One layer of a Llama."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, head, f = config.d_model, config.head_dim, config.d_ff
        self.heads, self.kv_heads, self.head, self.eps = config.n_heads, config.n_kv_heads, head, config.norm_eps
        self.attention_norm, self.mlp_norm = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.query, self.out = nn.Linear(d, self.heads * head, bias=False), nn.Linear(self.heads * head, d, bias=False)
        self.key, self.value = (nn.Linear(d, self.kv_heads * head, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
        """Map ``x [B, S, D]`` to ``[B, S, D]``."""
        h = F.rms_norm(x, x.shape[-1:], self.attention_norm, self.eps)
        q, k, v = (f(h).unflatten(-1, (-1, self.head)).transpose(1, 2) for f in (self.query, self.key, self.value))
        q, k = _rotated(q, sin, cos), _rotated(k, sin, cos)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        h = F.rms_norm(x, x.shape[-1:], self.mlp_norm, self.eps)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """The trunk, with tied logits and a scalar head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)
        self.score = nn.Linear(config.d_model, 1, bias=False) if config.scalar_head else None

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute hidden states ``[B, S, D]``."""
        c, x = self.config, self.embedding(tokens)
        rate = c.rope_theta ** (-torch.arange(0, c.head_dim, 2, device=x.device) / c.head_dim)
        angle = torch.arange(tokens.shape[-1], device=x.device)[:, None] * rate
        for block in self.blocks:
            x = block(x, angle.sin(), angle.cos())
        return F.rms_norm(x, x.shape[-1:], self.norm, c.norm_eps)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[B, S, V]``."""
        return F.linear(self.hidden(tokens), self.embedding.weight)

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the scalar head at the last token: ``[B]``."""
        assert self.score is not None
        return self.score(self.hidden(tokens)[:, -1])[:, 0]


def _rotated(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)
