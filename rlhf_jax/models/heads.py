"""Heads beside the language-model head: a scalar a token, for reward models and critics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class ScalarHead(nnx.Module):
    """A linear map from a hidden state to one float32 number; it starts at zero, so the first scores are all 0.

    There is no bias: a reward's zero means nothing, and sequence-classification checkpoints have none.
    """

    def __init__(self, d_model: int):
        self.kernel = nnx.Param(jnp.zeros((d_model, 1), jnp.float32))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Map ``hidden [..., D]`` to float32 ``[...]``."""
        return (hidden.astype(jnp.float32) @ self.kernel[...].astype(jnp.float32))[..., 0]
