"""How sure the coefficients of an over-optimisation curve are, when every policy answered the same prompts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, percentiles, resampled
from rlhf_jax.evaluation.over_optimisation import FEWEST, Kind, OverOptimisation, fit_over_optimisation


class FittedIntervals(NamedTuple):
    """A fitted curve with 95% intervals of what was fitted.

    Two curves over the same prompts with the same seed were resampled alike, so that ``one.draws - other.draws`` gives
    the paired interval of a difference.
    """

    fit: OverOptimisation
    a_ci: Interval
    b_ci: Interval
    peak_kl_ci: Interval  # nats a response; infinite where a draw has no peak
    draws: np.ndarray  # float64 [draws, 2], a and b of every draw


def over_optimisation_intervals(
    kl: ArrayLike, gold: ArrayLike, *, kind: Kind, seed: int, draws: int = 1000, confidence: float = 0.95
) -> FittedIntervals:
    """Fit gold over the distance and resample the prompts: their percentiles are the intervals of a, b and the peak.

    Each draw takes prompts with replacement, averages KL and gold over them, and fits the curve anew.

    Args:
        kl: [n], nats a response, where it is known, as that of best-of-n; or [n, P] as measured on each of P prompts.
        gold: [n, P], what the policy's response to each prompt scores above the initial policy's to the same prompt.
        kind: how the policies came about, "best_of_n" or "rl".
        seed: the intervals are a pure function of the arguments.
        draws: resamples; one in which fewer than three mean KLs are above 0 is left out.
        confidence: the coverage wanted.

    Returns:
        The fit to the means, with intervals.

    Raises:
        ValueError: as ``fit_over_optimisation`` does of the means, or if the shapes disagree.

    Example:
        >>> found = over_optimisation_intervals([1, 4, 9], [[2, 2], [2, 2], [0, 0]], kind="best_of_n", seed=0)
        >>> [round(x, 6) for x in (found.fit.a, *found.a_ci)]
        [3.0, 3.0, 3.0]

    Source: Gao et al. (2022), arXiv:2210.10760, section 3; the resampling of Davison & Hinkley (1997), section 3.8.
    """
    scores, distance = np.asarray(gold, np.float64), np.asarray(kl, np.float64)
    if scores.ndim != 2 or not scores.size or distance.shape not in (scores.shape, scores.shape[:1]):
        raise ValueError(f"expected gold [n, P] and kl [n] or [n, P], found {scores.shape} and {distance.shape}")
    if distance.ndim == 1:
        distance = np.broadcast_to(distance[:, None], scores.shape)
    fit = fit_over_optimisation(distance.mean(1), scores.mean(1), kind=kind)
    fits = []
    for weights in resampled(np.arange(scores.shape[1]), seed=seed, draws=draws):
        shares = weights / weights.sum(1, keepdims=True)
        for far, high in zip(shares @ distance.T, shares @ scores.T, strict=True):
            moved = far > 0  # an estimate of a small KL may come out below 0
            if len(np.unique(far[moved])) >= FEWEST:
                fits.append(fit_over_optimisation(far[moved], high[moved], kind=kind))
    if not fits:
        raise ValueError(f"no draw of the prompts has {FEWEST} different mean KLs above 0: measure more prompts")
    found = np.array([[one.a, one.b] for one in fits])
    peaks = np.array([math.inf if one.peak_kl is None else one.peak_kl for one in fits])
    return FittedIntervals(
        fit=fit,
        a_ci=percentiles(found[:, 0], confidence),
        b_ci=percentiles(found[:, 1], confidence),
        peak_kl_ci=_nearest(peaks, confidence),
        draws=found,
    )


def _nearest(draws: np.ndarray, confidence: float) -> Interval:
    """Take percentiles that are draws themselves, as nothing lies between a number and infinity."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, [tail, 100 - tail], method="nearest")
    return float(low), float(high)
