"""How much of a reward is the length of the response."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.intervals import Interval

# Standard errors above which a reward's change over the run is one that a share can be taken of.
SURE_GAIN = 3.0


class LengthShare(NamedTuple):
    """What the length of responses explains of their reward, and of the reward's change over the run."""

    # Share of the variance of each policy's rewards, the starting and the trained one's; None where all are the same.
    r2_before: float | None
    r2: float | None
    slope: float | None  # reward for one more character, inside each policy's responses
    length_before: float  # mean, characters
    length_after: float
    gain: float  # mean reward after, less before
    share: float | None  # what the change of length alone gives of the gain; None where there is no sure gain
    share_ci: Interval | None  # 95%


def length_share(
    length_before: ArrayLike,
    length_after: ArrayLike,
    reward_before: ArrayLike,
    reward_after: ArrayLike,
    *,
    seed: int = 0,
    draws: int = 500,
) -> LengthShare:
    """Regress reward on length inside each policy's responses, and hold the line against what the run changed.

    ``share = slope (mean length after - before) / (mean reward after - before)``

    The slope is that inside the responses of one and the same policy, so what a policy learnt beside writing longer is
    not in it. A share of 1 is a run that got its reward by length alone; below 0, length worked against the reward.

    Args:
        length_before: [n], characters of the starting policy's responses.
        length_after: [n], of the trained policy's, to the same prompts.
        reward_before: [n], the reward that was trained on.
        reward_after: [n].
        seed: the interval is a pure function of its arguments.
        draws: resamples of prompts for the interval.

    Returns:
        The shares; None where something they need is constant. The share of the gain is given only where the gain is
        ``SURE_GAIN`` standard errors above 0, as a share of nothing is noise.

    Raises:
        ValueError: if the four are not [n] with n of at least 2, or a reward is not finite.

    Example:
        >>> found = length_share([10, 20, 30], [40, 50, 60], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])  # 0.1 a character
        >>> round(found.r2, 6), round(found.slope, 6), round(found.share, 6)
        (1.0, 0.1, 1.0)

    Source: Singhal et al. (2023), A long way to go: investigating length correlations in RLHF, arXiv:2310.03716.
    """
    given = (length_before, length_after, reward_before, reward_after)
    x0, x1, y0, y1 = (np.asarray(value, np.float64) for value in given)
    if x0.ndim != 1 or len(x0) < 2 or any(x.shape != x0.shape for x in (x1, y0, y1)):
        raise ValueError(
            f"expected four lists of n >= 2 numbers, found shapes {x0.shape}, {x1.shape}, {y0.shape} and {y1.shape}"
        )
    if not (np.isfinite(y0).all() and np.isfinite(y1).all()):
        raise ValueError("a reward is not finite: leave out the responses that have none")
    gained = y1 - y0
    slope, share, interval = _slope(x0, x1, y0, y1), None, None
    if slope is not None and gained.mean() > SURE_GAIN * gained.std(ddof=1) / len(gained) ** 0.5:
        share = float(slope * (x1.mean() - x0.mean()) / gained.mean())
        rng = np.random.default_rng(seed)
        drawn = [_share(*(x[i] for x in (x0, x1, y0, y1))) for i in rng.integers(0, len(x0), (draws, len(x0)))]
        if told := [x for x in drawn if x is not None]:
            low, high = np.percentile(told, [2.5, 97.5]).tolist()
            interval = (low, high)
    return LengthShare(
        _r2(x0, y0),
        _r2(x1, y1),
        slope,
        float(x0.mean()),
        float(x1.mean()),
        float(gained.mean()),
        share,
        interval,
    )


def _slope(x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> float | None:
    """Fit one slope to both policies' responses, each about its own mean."""
    a, b = x0 - x0.mean(), x1 - x1.mean()
    spread = float(a @ a + b @ b)
    return float(a @ y0 + b @ y1) / spread if spread > 0 else None


def _share(x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> float | None:
    slope, gain = _slope(x0, x1, y0, y1), y1.mean() - y0.mean()
    return None if slope is None or gain == 0 else float(slope * (x1.mean() - x0.mean()) / gain)


def _r2(x: np.ndarray, y: np.ndarray) -> float | None:
    a, b = x - x.mean(), y - y.mean()
    spread = float(a @ a) * float(b @ b)
    return min(1.0, float(a @ b) ** 2 / spread) if spread > 0 else None
