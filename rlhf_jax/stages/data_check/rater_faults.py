"""What may be wrong with raters: they hardly agree, agree less by now, differ from all others, or do not read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_jax import feedback
from rlhf_jax.data.raters import LabelTable
from rlhf_jax.feedback.filtering import GOLDEN
from rlhf_jax.stages.data_check.finding import Finding, counted, share_of

_FEWEST = 20  # labels or pairs that say anything
_LOW, _MODEST = 0.2, 0.4  # Krippendorff's alpha from which people agree a little, and more than a little
_DROP = 0.15  # what agreement loses from a rater's first half to the second
_FEWEST_REPEATS, _SAME = 10, 0.7  # pairs that a rater was asked about again, and the share with the same answer
_SIDE = 0.8  # how often a rater prefers one place


def agreement(alpha: float, several: int) -> list[Finding]:
    """Say whether people agree too little.

    Args:
        alpha: Krippendorff's, NaN where nothing gives it.
        several: how many items have several labels.

    Returns:
        A finding or none: a warning below 0.2, a note below 0.4.

    Example:
        >>> print(agreement(0.1, 50)[0].text)
        Raters hardly agree: alpha is 0.10 on 50 items.
    """
    if several < _FEWEST or not alpha < _MODEST:
        return []
    low = alpha < _LOW
    text = f"Raters {'hardly agree' if low else 'agree a little'}: alpha is {alpha:.2f} on {several:,} items."
    advice = (
        "No reward model can be more accurate than its labels: look at the items on which they differ, make the "
        "guidelines clearer, and agree on some items before going on."
    )
    return [Finding("warning" if low else "note", "low_agreement", text, advice)]


def poor(table: LabelTable) -> list[Finding]:
    """Find the raters whom ``data.raters`` "filter" would leave out.

    Args:
        table: what raters said.

    Returns:
        A finding or none.
    """
    kept = feedback.kept_raters(table.labels, table.golden)
    out = [k for k, keep in enumerate(kept.keep) if not keep]
    if not out:
        return []
    whom = {True: "known answers", False: "the majority of the others"}
    rows = tuple(
        f"{table.raters[k]}: {kept.agreement[k]:.0%} with {whom[kept.by[k] == GOLDEN]} on "
        f"{counted(int(kept.n[k]), 'pair')}, below {kept.least[k]:.0%}"
        for k in out
    )
    given, every = int((table.labels[:, out] >= 0).sum()), int((table.labels >= 0).sum())
    number = counted(len(out), "rater agrees", "raters agree")
    text = (
        f"{number} too little with the others or with known answers, and gave {share_of(given, every)} of the labels."
    )
    advice = "Talk to them; --raters weight counts them less, and --raters filter leaves them out."
    return [Finding("warning", "poor_raters", text, advice, rows)]


def drifting(table: LabelTable, change: feedback.Drift) -> list[Finding]:
    """Find raters who agree with the others clearly less in the second half of their labels.

    Args:
        table: what raters said.
        change: their agreement in both halves.

    Returns:
        A finding or none: by 0.15 or more, and by more than two standard errors of the difference.
    """
    found = []
    for k, rater in enumerate(table.raters):
        early, late = float(change.early[k]), float(change.late[k])
        n, m = int(change.early_n[k]), int(change.late_n[k])
        if min(n, m) < _FEWEST or early - late < _DROP:
            continue
        both = (early * n + late * m) / (n + m)
        if early - late > 2 * float(np.sqrt(both * (1 - both) * (1 / n + 1 / m))):
            found.append(f"{rater}: {early:.0%} early on, {late:.0%} later")
    if not found:
        return []
    text = f"{counted(len(found), 'rater agrees', 'raters agree')} with the others less than before."
    advice = "They may be tired, or read the guidelines otherwise by now: show known items again, and fewer at once."
    return [Finding("warning", "drifting_raters", text, advice, tuple(found))]


def one_sided(first: Mapping[str, tuple[float, int]]) -> list[Finding]:
    """Find raters who nearly always prefer the response in one place.

    Args:
        first: by rater, how often the first response is preferred, and in how many rows.

    Returns:
        A finding or none: above 80% of at least 20 rows.

    Example:
        >>> one_sided({"ann": (0.5, 100), "bo": (0.0, 40)})[0].rows
        ('bo: the second in 100% of 40 rows',)
    """
    found = [
        f"{rater}: the {'first' if share > 0.5 else 'second'} in {max(share, 1 - share):.0%} of {n:,} rows"
        for rater, (share, n) in sorted(first.items())
        if n >= _FEWEST and max(share, 1 - share) > _SIDE
    ]
    if not found:
        return []
    text = f"{counted(len(found), 'rater prefers', 'raters prefer')} one place, whatever stands there."
    advice = "They may click without reading: look at what they did with known items."
    return [Finding("warning", "one_sided_raters", text, advice, tuple(found))]


def inconsistent(own: Mapping[str, tuple[float, int]]) -> list[Finding]:
    """Find raters who often say something else where they are asked about a pair again.

    Args:
        own: by rater, how often they repeat their first answer, and on how many pairs.

    Returns:
        A finding or none: below 70% of at least 10 pairs.

    Example:
        >>> inconsistent({"ann": (0.9, 20), "bo": (0.5, 20)})[0].rows
        ('bo: the same answer in 50% of 20 repeats',)
    """
    found = [
        f"{rater}: the same answer in {share:.0%} of {n:,} repeats"
        for rater, (share, n) in sorted(own.items())
        if n >= _FEWEST_REPEATS and share < _SAME
    ]
    if not found:
        return []
    text = f"{counted(len(found), 'rater contradicts', 'raters contradict')} themselves where they are asked again."
    advice = "They may guess, or the pairs are too close to call: offer a tie, and show known items again."
    return [Finding("warning", "inconsistent_raters", text, advice, tuple(found))]


def falling(periods: feedback.Periods, several: int) -> list[Finding]:
    """Say whether people agree less at the end of the collection than at its beginning.

    Args:
        periods: agreement by period.
        several: how many items have several labels.

    Returns:
        A finding or none: where alpha fell by more than 0.2, with 20 such items a period.
    """
    early, late = float(periods.alpha[0]), float(periods.alpha[-1])
    if several < _FEWEST * len(periods.start) or not early - late > _LOW:
        return []
    text = f"Agreement fell: alpha was {early:.2f} in the first period and is {late:.2f} in the last one."
    advice = "See whether the pairs became harder or the raters less careful, and calibrate again."
    return [Finding("warning", "agreement_falls", text, advice)]
