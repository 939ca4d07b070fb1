"""Wins at equal length: what is left of an accuracy or a win rate once the longer response's advantage is taken out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval, percentiles, resampled, resampled_pairs, union, wilson

# Where length alone explains every win the slope has no largest likelihood: this much of a prior gives it one.
_RIDGE = 1e-4
_MANY = 2000  # rows
_ITERATIONS, _LONGEST_STEP, _SETTLED = 100, 2.0, 1e-7


def length_controlled(
    wins: ArrayLike,
    difference: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    pairs: ArrayLike | None = None,
    seed: int = 0,
    draws: int = 500,
) -> tuple[float, Interval]:
    """Regress wins on the difference of lengths, and read the regression where the lengths are equal.

    ``P(win) = sigmoid(a + b d)``, fitted by maximum likelihood; the rate at ``d = 0`` is ``sigmoid(a)``

    For the accuracy of a reward model a win is a pair that it orders as people do, and ``d`` is how much longer the
    response is that people prefer; for the win rate of a policy, a win against the other and how much longer its own
    response is. Where length has no part in who wins, this is about the plain rate.

    Args:
        wins: [n], 1 for a win, 0 for none, 1/2 for a tie; anything between counts as so much of a win.
        difference: [n], in any unit of length.
        groups: [n], which prompt each is of; those of one prompt are drawn together. Each is its own by default.
        pairs: int [n, 2], the two responses each is of, where a response stands in several: then responses are drawn,
            as in ``bootstrap_pairs``, and no groups.
        seed: what the interval's resampling depends on.
        draws: resamples.

    Returns:
        (rate, (low, high)), a percentile bootstrap of 95%, never narrower than one over single rows; where all win, or
        none does, Wilson's interval with as many trials as there are groups.

    Raises:
        ValueError: if the shapes disagree, there is nothing, a win lies outside [0, 1], a number is not finite, or both
            groups and pairs are given.

    Example:
        >>> wins = [1, 1, 1, 0, 1, 0, 0, 0]  # of the longer ones 3 in 4, of the shorter ones 1 in 4
        >>> rate, _ = length_controlled(wins, [50, 50, 50, 50, -50, -50, -50, -50])
        >>> round(rate, 3)
        0.5

    Source: Dubois et al. 2024 (arXiv:2404.04475), who bound the difference with tanh and add how hard a prompt is.
    """
    y, d = np.asarray(wins, np.float64), np.asarray(difference, np.float64)
    if y.ndim != 1 or y.shape != d.shape or not y.size:
        raise ValueError(f"expected wins [n] and difference [n] with n > 0, found {y.shape} and {d.shape}")
    if not (np.isfinite(y).all() and np.isfinite(d).all() and y.min() >= 0 and y.max() <= 1):
        raise ValueError("wins must lie in [0, 1] and differences be finite")
    if groups is not None and pairs is not None:
        raise ValueError("groups and pairs both say what is drawn together: leave one of them out")
    ij = None if pairs is None else np.asarray(pairs)
    if ij is not None and ij.shape != (y.size, 2):
        raise ValueError(f"expected pairs [{y.size}, 2], found {ij.shape}")
    scale = float(np.sqrt((d**2).mean()))
    x = d / scale if scale > 0 else d
    every = np.ones((1, y.size))
    fitted = _fit(y, x, every, (0.0, 0.0))
    rate = float(_read_at_zero(y, every, fitted[0])[0])
    names = np.arange(y.size) if groups is None else np.asarray(groups)
    start, kinds = (float(fitted[0][0]), float(fitted[1][0])), len(np.unique(names if ij is None else ij))
    if rate in (0.0, 1.0):  # which no draw differs from
        return rate, wilson(rate * kinds, kinds)

    def interval(weighted: Iterable[np.ndarray]) -> Interval:
        drawn = []
        for weights in weighted:
            fit_again = _one_step if y.size > _MANY else _fit
            intercepts, _ = fit_again(y, x, weights, start)
            drawn.append(_read_at_zero(y, weights, intercepts))
        return percentiles(np.concatenate(drawn))

    if ij is not None:
        # a draw that happens to hold no complete pair says nothing
        weighted = (w[:, w.sum(axis=0) > 0].T for w in resampled_pairs(ij, seed=seed, draws=draws))
        return rate, interval(weighted)
    by_prompt = interval(resampled(names, seed=seed, draws=draws))
    if kinds == y.size:
        return rate, by_prompt
    return rate, union(by_prompt, interval(resampled(np.arange(y.size), seed=seed, draws=draws)))


def _fit(
    y: np.ndarray, x: np.ndarray, weights: np.ndarray, start: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a regression for each row of weights [D, n] by Newton's method: intercepts and slopes, [D] each."""
    a, b = (np.full(len(weights), value) for value in start)
    for _ in range(_ITERATIONS):
        p = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * x, -500, 500)))
        residual, curvature = weights * (y - p), weights * p * (1 - p)
        slope_a, slope_b = residual.sum(1) - _RIDGE * a, residual @ x - _RIDGE * b
        aa, ab, bb = curvature.sum(1) + _RIDGE, curvature @ x, curvature @ x**2 + _RIDGE
        determinant = aa * bb - ab**2
        step_a = (bb * slope_a - ab * slope_b) / determinant
        step_b = (aa * slope_b - ab * slope_a) / determinant
        # A whole step of Newton's may leave the plateau on the other side.
        shorter = np.minimum(1.0, _LONGEST_STEP / np.maximum(np.hypot(step_a, step_b), 1e-300))
        a, b = a + shorter * step_a, b + shorter * step_b
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < _SETTLED:
            break
    return a, b


def _one_step(
    y: np.ndarray, x: np.ndarray, weights: np.ndarray, start: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Go one step of Newton's from the fit to all rows: where these are many, a resample's own fit is no further."""
    a, b = start
    p = 1 / (1 + np.exp(-np.clip(a + b * x, -500, 500)))
    slope_a, slope_b = weights @ (y - p) - _RIDGE * a, weights @ ((y - p) * x) - _RIDGE * b
    flat = p * (1 - p)
    aa, ab, bb = weights @ flat + _RIDGE, weights @ (flat * x), weights @ (flat * x**2) + _RIDGE
    determinant = aa * bb - ab**2
    return a + (bb * slope_a - ab * slope_b) / determinant, b + (aa * slope_b - ab * slope_a) / determinant


def _read_at_zero(y: np.ndarray, weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    """Turn intercepts [D] into rates; where all is won or all lost, nothing but the prior holds an intercept."""
    share = weights @ y / weights.sum(1)
    return np.where((share <= 0) | (share >= 1), share, 1 / (1 + np.exp(-np.clip(intercepts, -500, 500))))
