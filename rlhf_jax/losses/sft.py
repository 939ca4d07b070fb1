"""Maximum likelihood on given tokens: what supervised fine-tuning minimises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float
from rlhf_jax.losses.checks import check_range
from rlhf_jax.losses.logprobs import token_logprobs


def cross_entropy(logits: ArrayLike, targets: ArrayLike, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Array:
    """Cross entropy of each target, optionally smoothed and with the normaliser held near 1.

    ``L_t = -(1 - e) log p(y_t) - e mean_v log p(v) + c (log Z_t)^2``, with ``Z_t = sum_v exp(logits_tv)``.

    Args:
        logits: [..., T, V], any float type; ``logits[..., t, :]`` predicts ``targets[..., t]``.
        targets: [..., T], integers in [0, V); one outside gives NaN (see ``token_logprobs``).
        label_smoothing: ``e``, the share of the target spread over all V tokens alike; usually 0, or 0.1. A logit of
            -inf makes the smoothed loss infinite.
        z_loss: ``c``; usually 0, or 1e-4. Keeps logits from drifting in long low-precision runs.

    Returns:
        [..., T], float32, nats, unreduced.

    Raises:
        AssertionError: if ``targets`` does not have the shape of ``logits`` without its last axis.
        ValueError: if ``label_smoothing`` is outside [0, 1] or ``z_loss`` is negative.

    Example:
        >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
        >>> print(cross_entropy(logits, jnp.array([1, 0])).round(4))  # -log 0.75, -log 0.5
        [0.2877 0.6931]

    Source: smoothing: Szegedy et al. 2016, section 7 (arXiv:1512.00567); z-loss: Chowdhery et al. 2022, section 5
    (arXiv:2204.02311).
    """
    check_range("label_smoothing", label_smoothing, at_least=0, at_most=1)
    check_range("z_loss", z_loss, at_least=0)
    logits = as_float(logits)
    loss = -token_logprobs(logits, targets)  # [..., T]
    # Terms that are off are left out, not multiplied by 0: 0 * inf is NaN where a logit is -inf.
    if label_smoothing != 0:
        uniform = -jax.nn.log_softmax(logits).mean(-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    if z_loss != 0:
        loss = loss + z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return loss
