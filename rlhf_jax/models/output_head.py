"""From hidden states to logits: the one matrix that a language model ends with, used as it is stored."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models.attention_forms import softcap
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.types import Array, Params

# The logit of an id without a token: its probability is 0, and 0 times it is still a number, at any temperature.
NEVER = -1e20

Ranges = tuple[tuple[int, int], ...]


def masked(logits: Array, tokenless: Ranges, value: float = NEVER) -> Array:
    """Put a value in place of the logits [..., V] of ids that no token has.

    Args:
        logits: any numbers by id.
        tokenless: the ids, as [first, last + 1); where there are none, the logits are returned as they are.
        value: what is put there.

    Example:
        >>> jax.nn.softmax(masked(jnp.zeros((1, 4)), ((2, 4),)))
        Array([[0.5, 0.5, 0. , 0. ]], dtype=float32)
    """
    if not tokenless:
        return logits
    missing = np.zeros(logits.shape[-1], bool)
    for first, end in tokenless:
        missing[first:end] = True
    return jnp.where(jnp.broadcast_to(missing, logits.shape), jnp.asarray(value, logits.dtype), logits)


@partial(jax.tree_util.register_dataclass, data_fields=["matrix"], meta_fields=["tied", "cap", "tokenless"])
@dataclasses.dataclass(frozen=True)
class OutputHead:
    """The last matrix of a language model, and how it is to be read.

    Args:
        matrix: the embedding table [V, D] where it is tied, else [D, V]; any float type.
        tied: which of the two it is.
        cap: logits are ``cap tanh(z / cap)``; 0 leaves them.
        tokenless: ids that no token has (``ModelConfig.tokenless``); their logits are ``NEVER``.
    """

    matrix: Array
    tied: bool
    cap: float = 0.0
    tokenless: Ranges = ()

    @property
    def vocab_size(self) -> int:
        """How many logits there are."""
        return self.matrix.shape[0 if self.tied else 1]

    def logits(self, hidden: Array) -> Array:
        """Turn ``hidden [..., D]`` into float32 ``[..., V]``, multiplied in hidden's type and added up in float32.

        Rounded to bfloat16, logits between 8 and 16 would be off by up to 0.03 nats.
        """
        return masked(softcap(self.times(hidden), self.cap), self.tokenless)

    def times(self, hidden: Array) -> Array:
        """Multiply ``hidden [..., D]`` by the matrix alone: float32 ``[..., V]``."""
        return _contracted(hidden, self.matrix.astype(hidden.dtype), 1 if self.tied else 0)

    def back(self, gradient: Array) -> Array:
        """Multiply the gradient of ``times``, [..., V], by the matrix the other way: float32 ``[..., D]``."""
        return _contracted(gradient, self.matrix.astype(gradient.dtype), 0 if self.tied else 1)


def output_head(config: ModelConfig, params: Params) -> OutputHead:
    """Take the output head out of a language model's parameters; it holds the very same array.

    Args:
        config: the model's.
        params: its weights.

    Returns:
        What ``token_stats`` and ``token_kl`` read.

    Example:
        >>> from rlhf_jax.models import build
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> head = output_head(config, build(config).init(jax.random.key(0)))
        >>> head.matrix.shape, head.tied, head.logits(jnp.ones((3, 8))).shape
        ((32, 8), True, (3, 32))
    """
    name = "embedding" if config.tie_embeddings else "unembedding"
    return OutputHead(params[name], config.tie_embeddings, config.logit_softcap, config.tokenless)


def _contracted(x: Array, matrix: Array, axis: int) -> Array:
    """Contract the last axis of x with one of the matrix's, which is never transposed in memory for it."""
    numbers = (((x.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(x, matrix, numbers, preferred_element_type=jnp.float32)
