"""K responses to one prompt: how much better each is than the others, and how far a whole response has moved.

The other responses take the place of a critic, so a response alone in its group teaches nothing. The advantages are
constants to the policy's gradient.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from rlhf_jax.losses.arrays import Array, as_float, as_mask
from rlhf_jax.losses.checks import check_range
from rlhf_jax.losses.masked import masked_fill, masked_mean, masked_sum
from rlhf_jax.losses.ppo import MAX_LOG_RATIO


def rloo_advantages(rewards: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Each reward less the mean of the *others*: a baseline that does not depend on the response it judges.

    ``A_k = r_k - sum_{j != k} r_j / (K - 1)``, which is ``K / (K - 1)`` times the distance from the group's mean

    Args:
        rewards: [..., K], one a response, of any number type; usually K is 2 to 8 (Ahmadian et al. 2024 use 2 and 4).
        mask: [..., K], False where the group has no such response; None is all True. Only responses that are there
            are compared.

    Returns:
        [..., K], float32; 0 behind the mask and where a response has nobody to be compared with.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if K < 2.

    Example:
        >>> print(rloo_advantages(jnp.array([1.0, 2.0, 6.0])))
        [-3.  -1.5  4.5]

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024
    (arXiv:2402.14740).
    """
    rewards, present, count = _comparable(rewards, mask, "RLOO")
    others = (jnp.sum(rewards, axis=-1, keepdims=True) - rewards) / jnp.maximum(count - 1, 1)
    return masked_fill(rewards - others, present)


def grpo_advantages(rewards: ArrayLike, *, normalise_std: bool = True, mask: ArrayLike | None = None) -> Array:
    """Each reward's distance from the mean of its group, in standard deviations of the group.

    ``A_k = (r_k - mean) / (std + 1e-4)``, or ``r_k - mean``

    ``std`` is that of a sample: it divides by K - 1. The paper's "std" does not say; public code for it (TRL, verl)
    calls ``torch.std``, which does. With K = 2 the advantages of unequal rewards are so 0.71 and -0.71.

    Args:
        rewards: [..., K], one a response, of any number type; usually K is 4 to 64 (Shao et al. 2024).
        normalise_std: False leaves the distance in units of reward, as Dr. GRPO does: dividing gives prompts on which
            nearly all responses agree the largest weight.
        mask: [..., K], False where the group has no such response; None is all True. Mean and std are over the
            responses that are there.

    Returns:
        [..., K], float32; 0 behind the mask, where all rewards are equal and where a response is alone.

    Raises:
        AssertionError: if the shapes differ.
        ValueError: if K < 2.

    Example:
        >>> print(grpo_advantages(jnp.array([1.0, 2.0, 6.0]), normalise_std=False))
        [-2. -1.  3.]
        >>> print(grpo_advantages(jnp.array([1, 2, 3])).round(3))
        [-1.  0.  1.]

    Source: Shao et al. 2024, section 4.1.2 (arXiv:2402.03300); without the division: Liu et al. 2025
    (arXiv:2503.20783).
    """
    rewards, present, count = _comparable(rewards, mask, "GRPO")
    mean = jnp.sum(rewards, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = masked_fill(rewards - mean, present)
    if not normalise_std:
        return centred
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
    varies = variance > 0
    std = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)  # the root has no gradient at 0
    return centred / (std + 1e-4)


def gspo_ratio(logprobs: ArrayLike, old_logprobs: ArrayLike, mask: ArrayLike) -> Array:
    """How much likelier a whole response has become, as the geometric mean over its tokens.

    ``rho = exp(mean_t (log pi(y_t) - log pi_old(y_t)))``

    Args:
        logprobs: [..., T], under the policy that is trained, nats.
        old_logprobs: [..., T], under the policy that sampled; a constant to the caller's gradient.
        mask: [..., T], True on the response's tokens.

    Returns:
        [...], float32; 1 for an empty response. A mean log-ratio above 80 is taken as 80, and has no gradient.

    Raises:
        AssertionError: if the shapes differ.

    Example:
        >>> old = jnp.log(jnp.array([0.5, 0.1, 0.9]))
        >>> new = jnp.log(jnp.array([0.5, 0.4, 0.1]))
        >>> print(gspo_ratio(new, old, jnp.array([True, True, False])).round(4))  # (1 * 4) ** (1 / 2)
        2.0

    Source: Zheng et al. 2025, eq. 7 (arXiv:2507.18071).
    """
    log_ratio = masked_fill(logprobs, mask) - masked_fill(old_logprobs, mask)  # [..., T]
    return jnp.exp(jnp.minimum(masked_mean(log_ratio, mask, axis=-1), MAX_LOG_RATIO))


def best_of_n_kl(n: ArrayLike) -> Array:
    """How far choosing the best of ``n`` samples moves from the policy that sampled them.

    ``KL(best-of-n || policy) = log n - (n - 1) / n``

    Exact where no two samples are alike and no two rewards equal, as is nearly so for long responses; otherwise an
    upper bound.

    Args:
        n: [...], samples a prompt; usually 1 to 1000.

    Returns:
        [...], float32, nats a response.

    Raises:
        ValueError: if ``n`` is a number below 1.

    Example:
        >>> print(f"{best_of_n_kl(4):.4f}")  # log 4 - 3/4
        0.6363

    Source: Stiennon et al. 2020, appendix G.3 (arXiv:2009.01325); that it bounds: Beirami et al. 2024
    (arXiv:2401.01879).
    """
    check_range("n", n, at_least=1)
    n = as_float(n)
    return jnp.log(n) - (n - 1) / n


def _comparable(rewards: ArrayLike, mask: ArrayLike | None, method: str) -> tuple[Array, Array, Array]:
    """Rewards [..., K] less the group's first one, which of them are there, and how many, [..., 1]."""
    rewards = as_float(rewards)
    responses = rewards.shape[-1] if rewards.ndim else 1
    if responses < 2:
        raise ValueError(f"{method} compares the responses to one prompt: K must be at least 2, found {responses}")
    present = jnp.ones(rewards.shape, bool) if mask is None else as_mask(mask)
    rewards = masked_fill(rewards, present)  # [..., K]
    # Equal rewards must come out as exactly 0: the rounding error of their mean, divided by a std that consists of
    # such errors, would not.
    first = jnp.take_along_axis(rewards, jnp.argmax(present, axis=-1, keepdims=True), axis=-1)
    count = masked_sum(jnp.ones_like(rewards), present, axis=-1)[..., None]
    return masked_fill(rewards - first, present), present, count
