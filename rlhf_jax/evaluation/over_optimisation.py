"""How the gold score rises and falls with the distance from the initial policy, and where it is highest."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["best_of_n", "rl"]

# Two coefficients go through any two points, which says nothing about the shape.
FEWEST = 3


class OverOptimisation(NamedTuple):
    """A fitted curve of the gold score over the distance from the initial policy.

    The peak is None where there is none; past the largest KL that was fitted it is extrapolated.
    """

    kind: Kind
    a: float  # gold per root nat: what going further gains
    b: float  # what going further costs; there is a peak only where it is above 0
    peak_d: float | None  # sqrt(nats)
    peak_kl: float | None  # nats a response
    peak_gold: float | None  # above the initial policy's
    residual: float  # root mean square, in units of gold
    r2: float | None  # 1 - squared residuals / squared deviations from the mean; None where gold never changes

    def curve(self, kl: ArrayLike) -> np.ndarray:
        """Evaluate the fitted gold score at any KL, above that of the initial policy.

        Args:
            kl: [...], nats a response, at least 0.

        Returns:
            float64 [...]; 0 at KL 0.

        Raises:
            ValueError: if a KL is below 0 or not finite.

        Example:
            >>> fit_over_optimisation([1, 4, 9], [2, 2, 0], kind="best_of_n").curve([0.0, 2.25]).round(6)
            array([0.  , 2.25])
        """
        return _terms(_checked_kl(kl), self.kind) @ np.array([self.a, self.b])


def fit_over_optimisation(kl: ArrayLike, gold: ArrayLike, *, kind: Kind) -> OverOptimisation:
    """Fit gold score against d = sqrt(KL) by least squares; both forms are linear in a and b.

    - best_of_n: ``gold(d) = d (a - b d)``, highest at ``d = a / (2 b)``, where it is ``a^2 / (4 b)``
    - rl: ``gold(d) = d (a - b log d)``, highest at ``d = exp(a / b - 1)``, where it is ``b d``

    Gold is measured from its value at KL 0: subtract the initial policy's score first. Points at KL 0 then lie on every
    curve and are left out of the fit and of its residual.

    Args:
        kl: [n], KL of the policy to the initial one, nats a response; best-of-n has the KL ``losses.best_of_n_kl``.
        gold: [n], mean score by a judge that was not optimised, less that of the initial policy.
        kind: how the policies came about, "best_of_n" or "rl".

    Returns:
        Coefficients, peak and quality of the fit, and ``curve(kl)``. There is no peak where ``b`` is 0 or less, where
        best-of-n only falls (``a`` is 0 or less), or where its KL is too large for a float.

    Raises:
        ValueError: if the shapes disagree, a number is not finite, a KL is below 0, fewer than three different KLs are
            above 0, the gold score at KL 0 is not 0, or for an unknown kind.

    Example:
        >>> found = fit_over_optimisation([0, 1, 4, 9], [0, 2, 2, 0], kind="best_of_n")  # d (3 - d)
        >>> round(found.a, 6), round(found.b, 6), round(found.peak_kl, 6), round(found.peak_gold, 6)
        (3.0, 1.0, 2.25, 2.25)

    Source: Gao et al. (2022), Scaling laws for reward model overoptimization, arXiv:2210.10760, section 3.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: expected one of {get_args(Kind)}")
    distance, score = _checked_kl(kl), np.asarray(gold, np.float64)
    if distance.ndim != 1 or distance.shape != score.shape:
        raise ValueError(f"expected kl [n] and gold [n], found {distance.shape} and {score.shape}")
    if not np.isfinite(score).all():
        raise ValueError(f"gold must be finite, found {score[~np.isfinite(score)][0]}")
    moved = distance > 0
    different = len(np.unique(distance[moved]))
    if different < FEWEST:
        raise ValueError(f"expected at least {FEWEST} different KLs above 0, found {different}: fewer show no shape")
    at_start = np.abs(score[~moved]).max(initial=0.0)
    if at_start > 1e-6 * np.abs(score).max():
        raise ValueError(f"gold at KL 0 must be 0, found {at_start:.3g}: subtract the initial policy's score")
    terms, target = _terms(distance[moved], kind), score[moved]
    a, b = (float(x) for x in np.linalg.lstsq(terms, target)[0])
    errors = target - terms @ np.array([a, b])
    spread = np.square(target - target.mean()).sum()
    peak_d, peak_gold = _peak(a, b, kind)
    return OverOptimisation(
        kind=kind,
        a=a,
        b=b,
        peak_d=peak_d,
        peak_kl=None if peak_d is None else peak_d**2,
        peak_gold=peak_gold,
        residual=math.sqrt(np.square(errors).mean()),
        r2=float(1 - np.square(errors).sum() / spread) if np.ptp(target) > 0 else None,
    )


def _terms(kl: np.ndarray, kind: Kind) -> np.ndarray:
    """Compute what a and b are multiplied by, [..., 2]."""
    d = np.sqrt(kl)
    # d log d goes to 0 with d
    cost = d * d if kind == "best_of_n" else d * np.log(np.where(d > 0, d, 1.0))
    return np.stack([d, -cost], axis=-1)


def _peak(a: float, b: float, kind: Kind) -> tuple[float, float] | tuple[None, None]:
    """Find (d, gold) where the derivative by d is 0 and the curve bends down."""
    if b <= 0 or (kind == "best_of_n" and a <= 0):
        return None, None
    with np.errstate(over="ignore"):
        d = np.float64(a / (2 * b) if kind == "best_of_n" else np.exp(a / b - 1))
        if not np.isfinite(d * d):
            return None, None
    return float(d), float(a * d / 2 if kind == "best_of_n" else b * d)


def _checked_kl(kl: ArrayLike) -> np.ndarray:
    distance = np.asarray(kl, np.float64)
    wrong = ~(np.isfinite(distance) & (distance >= 0))
    if wrong.any():
        raise ValueError(f"kl must be finite and at least 0, found {distance[wrong][0]}")
    return distance
