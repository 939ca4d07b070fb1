"""Importance weights: what a token counts that another policy sampled than the one whose gradient is wanted.

Samples of a policy ``mu`` stand for samples of ``pi`` once each is weighted by ``pi / mu``. A few such weights can be
enormous, so they are truncated, which costs a little bias and bounds the variance.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.checks import check_range
from rlhf_jax.losses.masked import masked_fill
from rlhf_jax.losses.ppo import MAX_LOG_RATIO


def truncated_importance_weights(logprobs: ArrayLike, behaviour_logprobs: ArrayLike, *, cap: ArrayLike = 2.0) -> Array:
    """Weigh what an older policy sampled as if the newer one had sampled it, but never by more than a cap.

    ``w_t = min(exp(logp_t - logp_mu_t), cap)``, without a gradient: ``d w_t = 0``

    The weight multiplies a loss, and the loss has the gradient; one that flowed into the weight as well would count the
    same ratio twice. It stands beside PPO's ratio, which starts from ``logp_old`` and so knows nothing of ``mu``.

    Args:
        logprobs: [..., T], under the policy that the samples are to stand for: the trainer's before its update.
        behaviour_logprobs: [..., T], under the policy that sampled, ``mu``.
        cap: the largest weight, a number or an array that broadcasts, usually 2 to 10; 1 only takes weight away, as
            V-trace does; inf leaves the ratio as it is.

    Returns:
        [..., T], float32, above 0 and at most ``cap``; 1 where both policies agree. A log-ratio above 80 is taken as
        80.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if ``cap`` is not above 0.

    Example:
        >>> new, sampler = jnp.log(jnp.array([0.5, 0.25, 0.75])), jnp.log(jnp.array([0.5, 0.5, 0.25]))
        >>> print(truncated_importance_weights(new, sampler))  # ratios 1, 0.5, 3
        [1.  0.5 2. ]

    Source: Ionides 2008, "Truncated importance sampling"; Espeholt et al. 2018, the rho of V-trace
    (arXiv:1802.01561); between the sampler and the trainer of a language model: Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training".
    """
    check_range("cap", cap, above=0)
    logprobs, behaviour_logprobs = as_float(logprobs), as_float(behaviour_logprobs)
    chex.assert_equal_shape([logprobs, behaviour_logprobs])  # [..., T]
    ratio = jnp.exp(jnp.minimum(logprobs - behaviour_logprobs, MAX_LOG_RATIO))
    return jax.lax.stop_gradient(jnp.minimum(ratio, cap))


def effective_sample_size(weights: ArrayLike, mask: ArrayLike) -> Array:
    """Compute which share of the samples an estimate with these weights is worth.

    ``(sum_t w_t)^2 / (n sum_t w_t^2)``, over the n entries that count

    It is 1 where all weights are alike, and ``1 / n`` where one entry has all the weight.

    Args:
        weights: [...], not negative.
        mask: [...], the same shape.

    Returns:
        float32 [], between 0 and 1; times n it is a number of samples. 0 where nothing counts, or all weights are 0.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> weights, mask = jnp.array([2.0, 1.0, 1.0, 99.0]), jnp.array([True, True, True, False])
        >>> print(f"{effective_sample_size(weights, mask):.4f}")  # 16 / (3 * 6)
        0.8889

    Source: Kish 1965, "Survey Sampling"; Kong 1992, "A note on importance sampling using standardized weights".
    """
    counted = masked_fill(weights, mask)
    # Weights of any size: their squares neither overflow nor vanish once the largest is 1.
    counted = counted / jnp.maximum(jnp.max(counted), jnp.finfo(counted.dtype).tiny)
    squares = as_float(as_mask(mask)).sum() * jnp.square(counted).sum()
    return jnp.square(counted.sum()) / jnp.where(squares > 0, squares, 1)
