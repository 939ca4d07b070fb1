"""Controllers of the KL coefficient: how strongly a policy is held near the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from rlhf_jax.types import Array


class KLState(NamedTuple):
    """A controller's state; it travels in the checkpoint.

    Example:
        >>> fixed(0.05).init().coef.dtype
        dtype('float32')
    """

    coef: Array  # float32 []; the weight of the KL, in the reward or in the loss


class Controller(NamedTuple):
    """A pair of pure functions.

    Example:
        >>> controller = fixed(0.05)
        >>> round(float(controller.update(controller.init(), kl=9.0, samples=64).coef), 3)
        0.05
    """

    init: Callable[[], KLState]
    update: Callable[..., KLState]  # (state, *, kl, samples) -> state; kl in nats per response


def fixed(coef: float) -> Controller:
    """A coefficient that never changes.

    Args:
        coef: weight of the KL; 0.01 to 0.2.

    Returns:
        A controller whose update gives back its state.

    Raises:
        ValueError: coef is negative.

    Example:
        >>> round(float(fixed(0.05).init().coef), 3)
        0.05

    Source: Ouyang et al., "Training language models to follow instructions" (2022), use 0.02.
    """
    if not coef >= 0:
        raise ValueError(f"coef must be at least 0, found {coef}")

    def update(state: KLState, *, kl: Array | float, samples: Array | int) -> KLState:
        del kl, samples
        return state

    return Controller(init=lambda: KLState(jnp.float32(coef)), update=update)


def adaptive(
    initial: float, *, target: float, horizon: float, minimum: float = 0.01, maximum: float = 0.1
) -> Controller:
    """A proportional controller that holds the KL near a target.

    ``beta <- beta (1 + e n / h)``, ``e = clip(KL / target - 1, -0.2, 0.2)``

    The coefficient ``beta`` is clipped to ``[minimum, maximum]``, so that a KL estimate gone wild can neither free the
    policy nor freeze it.

    Args:
        initial: the first coefficient, between minimum and maximum.
        target: KL to hold, in nats per response; 3 to 10.
        horizon: h, the number of samples over which an error of 1 would double the coefficient; about 10,000.
        minimum: lower bound of the coefficient.
        maximum: upper bound of the coefficient.

    Returns:
        A controller; its update takes the measured KL (nats per response) and the number n of responses behind it. A KL
        that is not finite leaves the coefficient as it is.

    Raises:
        ValueError: a bound, the target or the horizon is not positive, or the initial value is outside the bounds.

    Example:
        >>> controller = adaptive(0.05, target=5.0, horizon=100.0)
        >>> round(float(controller.update(controller.init(), kl=6.0, samples=50).coef), 4)
        0.055

    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section 2.2.
    """
    if not (target > 0 and horizon > 0):
        raise ValueError(f"target and horizon must be positive, found {target} and {horizon}")
    if not 0 < minimum <= initial <= maximum:
        raise ValueError(f"need 0 < minimum <= initial <= maximum, found {minimum}, {initial}, {maximum}")

    def update(state: KLState, *, kl: Array | float, samples: Array | int) -> KLState:
        measured = jnp.asarray(kl, jnp.float32)
        error = jnp.where(jnp.isfinite(measured), jnp.clip(measured / target - 1.0, -0.2, 0.2), 0.0)
        factor = 1.0 + error * jnp.asarray(samples, jnp.float32) / horizon
        return KLState(jnp.clip(state.coef * factor, minimum, maximum))

    return Controller(init=lambda: KLState(jnp.float32(initial)), update=update)


def banded(
    initial: float, *, low: float, high: float, factor: float = 1.2, minimum: float = 0.01, maximum: float = 0.1
) -> Controller:
    """A controller that acts only outside a band: between two KLs the coefficient rests.

    ``beta <- f beta`` if ``KL > h``, ``beta <- beta / f`` if ``KL < l``

    The coefficient ``beta`` is clipped to ``[minimum, maximum]``.

    Args:
        initial: the first coefficient, between minimum and maximum.
        low: l, in nats per response: below it the policy is held less.
        high: h, in nats per response: above it the policy is held more.
        factor: f, above 1; 1.1 to 2.
        minimum: lower bound of the coefficient.
        maximum: upper bound of the coefficient.

    Returns:
        A controller; its update takes the measured KL (nats per response). A KL that is not finite leaves the
        coefficient as it is.

    Raises:
        ValueError: the band is empty, the factor is not above 1, or the initial value is outside the bounds.

    Example:
        >>> controller = banded(0.05, low=2.0, high=6.0, factor=1.5)
        >>> [round(float(controller.update(controller.init(), kl=kl, samples=64).coef), 4) for kl in (1.0, 4.0, 9.0)]
        [0.0333, 0.05, 0.075]

    Source: the penalty rule of Schulman et al. 2017, section 4 (arXiv:1707.06347), with a band around the target.
    """
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, found {low} and {high}")
    if not factor > 1:
        raise ValueError(f"factor must be above 1, found {factor}")
    if not 0 < minimum <= initial <= maximum:
        raise ValueError(f"need 0 < minimum <= initial <= maximum, found {minimum}, {initial}, {maximum}")

    def update(state: KLState, *, kl: Array | float, samples: Array | int) -> KLState:
        del samples
        measured = jnp.asarray(kl, jnp.float32)  # comparisons with NaN are False: it changes nothing
        change = jnp.where(measured > high, factor, jnp.where(measured < low, 1 / factor, 1.0))
        return KLState(jnp.clip(state.coef * jnp.where(jnp.isfinite(measured), change, 1.0), minimum, maximum))

    return Controller(init=lambda: KLState(jnp.float32(initial)), update=update)
