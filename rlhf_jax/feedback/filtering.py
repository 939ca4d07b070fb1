"""Which raters stay: those who agree with known answers, or where there are none with the majority of the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.feedback.labels import checked_labels
from rlhf_jax.feedback.raters import agreement_with_golden, agreement_with_others

GOLDEN, OTHERS, NOTHING = "golden", "others", "nothing"
LEAST = {GOLDEN: 0.7, OTHERS: 0.6}  # people agree with a majority less than with an answer that is clear
ENOUGH = 5  # pairs; fewer say too little of anybody


class Kept(NamedTuple):
    """Which raters stay, and what decided."""

    keep: np.ndarray  # bool [n_raters]
    by: tuple[str, ...]  # n_raters times "golden", "others", or "nothing" where too little is known
    agreement: np.ndarray  # float64 [n_raters]; NaN where nothing is known
    n: np.ndarray  # int64 [n_raters]; pairs that it is of
    least: np.ndarray  # float64 [n_raters]; what it has to be


def kept_raters(
    labels: np.ndarray, golden: np.ndarray | None = None, *, least: float | None = None, enough: int = ENOUGH
) -> Kept:
    """Decide which raters stay.

    A rater with ``enough`` pairs of known answer is measured by them, else by the majority of the others, else stays:
    a rater of whom little is known is not shown to be bad. Ties count as in ``agreement_with_golden``; who flips a coin
    agrees half of the time.

    Args:
        labels: int [n_items, n_raters], 0, 1, 2 or -1.
        golden: int [n_items], the known answers, -1 where there is none; None where there are none.
        least: the least agreement of a rater who stays, 0 to 1; None is 0.7 with known answers and 0.6 with the others.
        enough: the fewest pairs that measure a rater.

    Returns:
        Who stays, and why.

    Raises:
        ValueError: if an array has another shape or other values, or ``least`` lies outside 0 to 1.

    Example:
        >>> labels = np.stack([[0, 1] * 5, [0, 1] * 5, [1, 0] * 5], axis=1)
        >>> found = kept_raters(labels, np.array([0, 1] * 5))
        >>> found.keep, found.by[2], found.agreement[2]
        (array([ True,  True, False]), 'golden', np.float64(0.0))
    """
    if least is not None and not 0 <= least <= 1:
        raise ValueError(f"least must lie between 0 and 1, found {least}")
    table = checked_labels(labels)
    known = np.full(len(table), -1) if golden is None else np.asarray(golden)
    measured = {GOLDEN: agreement_with_golden(table, known), OTHERS: agreement_with_others(table)}
    by = tuple(
        next((name for name, (_, n) in measured.items() if n[k] >= enough), NOTHING) for k in range(table.shape[1])
    )
    agreement = np.array([measured[name][0][k] if name in measured else np.nan for k, name in enumerate(by)])
    n = np.array([measured[name][1][k] if name in measured else 0 for k, name in enumerate(by)], np.int64)
    needed = np.array([0.0 if name == NOTHING else LEAST[name] if least is None else least for name in by])
    keep = np.array([name == NOTHING for name in by], bool) | (np.nan_to_num(agreement) >= needed - 1e-9)
    return Kept(keep, by, agreement, n, needed)
