"""From logits to what the objectives speak about: log-probabilities of given tokens, and entropy. All in nats."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float


def token_logprobs(logits: ArrayLike, targets: ArrayLike) -> Array:
    """Log-probability of each target under the logits at its own position.

    ``log softmax(logits_t)[y_t]``

    Nothing is shifted: ``logits[..., t, :]`` is the distribution that ``targets[..., t]`` was drawn from, which in a
    language model is what it says after token ``t - 1``.

    Args:
        logits: [..., T, V], any float type.
        targets: [..., T], integers in [0, V). One outside (an "ignore" label such as -100) gives NaN, to be hidden by
            the mask; it never wraps round to another token.

    Returns:
        [..., T], float32, nats.

    Raises:
        AssertionError: if ``targets`` does not have the shape of ``logits`` without its last axis.

    Example:
        >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
        >>> print(jnp.exp(token_logprobs(logits, jnp.array([1, 0]))).round(4))
        [0.75 0.5 ]
    """
    logits, targets = as_float(logits), jnp.asarray(targets)
    chex.assert_shape(targets, logits.shape[:-1])  # [..., T]
    logprobs = jax.nn.log_softmax(logits)
    # A negative index would count from the end; one past the end is filled with NaN.
    index = jnp.where(targets < 0, logits.shape[-1], targets)[..., None]
    return jnp.take_along_axis(logprobs, index, axis=-1, mode="fill", fill_value=jnp.nan).squeeze(-1)


def entropy(logits: ArrayLike) -> Array:
    """Entropy of the distribution at each position.

    ``H_t = -sum_v p_v log p_v``

    Args:
        logits: [..., T, V], any float type; -inf is a token that cannot be drawn, and contributes nothing.

    Returns:
        [..., T], float32, nats: 0 (one token is certain) to log V (all alike).

    Example:
        >>> print(entropy(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]])).round(4))  # log 2, 0
        [0.6931 0.    ]
    """
    logprobs = jax.nn.log_softmax(as_float(logits))
    probs = jnp.exp(logprobs)
    # 0 log 0 = 0, and log 0 must be gone before it is multiplied, or the gradient is NaN.
    return jnp.sum(probs * jnp.where(probs > 0, -logprobs, 0), axis=-1)
