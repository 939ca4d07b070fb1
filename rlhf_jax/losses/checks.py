"""Hyperparameters that make no sense are refused, and those that nobody in the literature uses are warned of."""

from __future__ import annotations

import math
import warnings

import numpy as np
from jax.typing import ArrayLike


class UnusualHyperparameter(UserWarning):
    """A value that can be meant, but that nobody in the literature uses."""


def check_range(
    name: str,
    value: ArrayLike,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    """Refuse a hyperparameter outside its range.

    Only plain numbers are looked at: a traced value (an annealed clip range, say) is not known yet.

    Raises:
        ValueError: naming the parameter, what was found and what is allowed.

    Example:
        >>> check_range("clip", -0.2, above=0)
        Traceback (most recent call last):
        ...
        ValueError: clip must be above 0, found -0.2
    """
    if not isinstance(value, (int, float, np.number)):
        return
    if value > above and at_least <= value <= at_most:
        return
    limits = [(above, "above"), (at_least, "at least"), (at_most, "at most")]
    allowed = " and ".join(f"{word} {limit:g}" for limit, word in limits if math.isfinite(limit))
    raise ValueError(f"{name} must be {allowed or 'a number'}, found {value:g}")


def warn_outside(name: str, value: ArrayLike, low: float, high: float, source: str) -> None:
    """Warn of a hyperparameter that makes sense but lies outside the range the field uses.

    Only plain numbers are looked at, as in ``check_range``.

    Args:
        name: the parameter.
        value: what it was given.
        low: the smallest usual value.
        high: the largest.
        source: who uses that range.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_outside("beta", 7.0, 0.01, 0.5, "Rafailov et al. 2023")
        >>> print(caught[0].message)
        beta is 7, outside the usual 0.01 to 0.5 (Rafailov et al. 2023)
    """
    if isinstance(value, (int, float, np.number)) and not low <= value <= high:
        text = f"{name} is {value:g}, outside the usual {low:g} to {high:g} ({source})"
        warnings.warn(text, UnusualHyperparameter, stacklevel=3)
