"""Heads beside the language-model head: a scalar a token, for reward models and critics."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.types import Array, Params


class ScalarHead(nnx.Module):
    """A linear map from a hidden state to one float32 number; it starts at zero, so the first scores are all 0.

    There is no bias: a reward's zero means nothing, and sequence-classification checkpoints have none.
    """

    def __init__(self, d_model: int):
        self.kernel = nnx.Param(jnp.zeros((d_model, 1), jnp.float32))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Map ``hidden [..., D]`` to float32 ``[...]``."""
        return (hidden.astype(jnp.float32) @ self.kernel[...].astype(jnp.float32))[..., 0]


class ValueHead(NamedTuple):
    """A critic without a trunk of its own: a linear map on the policy's hidden states.

    ``V_t = h_t w``, with ``dV_t / dw = h_t`` and ``dV_t / dh_t = gradient * w``

    As ``models["critic"]`` of ``forward`` it shares the policy's forward pass. Its parameters are ``{"head":
    {"kernel": w}}``, w float32 [D, 1].

    Args:
        gradient: how much of the value loss's gradient goes on into the policy: 1 all of it, 0 none.

    Example:
        >>> head, w = ValueHead(gradient=0.5), {"head": {"kernel": jnp.array([[3.0], [4.0]])}}
        >>> print(head.values(w, jnp.ones(2)), jax.grad(head.values, 1)(w, jnp.ones(2)))
        7.0 [1.5 2. ]

    Source: Ziegler et al. 2019 (arXiv:1909.08593), whose code has such a head and takes the whole gradient.
    """

    gradient: float = 1.0

    def values(self, params: Params, hidden: Array) -> Array:
        """Compute the value of each hidden state: ``hidden`` [..., D] -> float32 [...]."""
        h, w = hidden.astype(jnp.float32), params["head"]["kernel"].astype(jnp.float32)
        # One product, of which the gradient sees two: the head learns at full strength whatever the policy is told.
        values, to_policy = jax.lax.stop_gradient(h) @ w, h @ jax.lax.stop_gradient(w)
        return (values + self.gradient * (to_policy - jax.lax.stop_gradient(to_policy)))[..., 0]
