"""What a reward model is up against on the same held-out pairs: other scorers of text, and one person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import evaluation, feedback
from rlhf_jax.stages.held_out import HeldOutPairs


def baselines(held: HeldOutPairs, scorers: Mapping[str, Callable[[Sequence[str]], np.ndarray]]) -> dict[str, Any]:
    """Measure each baseline on held-out pairs, over all domains together and by domain.

    Args:
        held: pairs of the test part.
        scorers: functions by name; each takes texts and returns one score a text.

    Returns:
        The accuracy of every scorer, and ``single_rater``, one person against the majority of the others, where the
        rows have ratings; each comes with ``_ci``, ``_by_domain`` and ``_by_domain_ci``.
    """
    found: dict[str, Any] = {}
    for name, score in scorers.items():
        counted, correct = evaluation.pair_accuracy(score(held.texts), held.pairs, held.share)
        found |= _figures(name, held, counted, correct)
    if not held.ratings:
        return found
    # A pair without a majority has no right answer, for a person as for a model.
    counted = np.abs(held.share - 0.5) > 1e-6
    return found | _figures("single_rater", held, counted, feedback.single_rater_accuracy(held.ratings, held.pairs))


def agreement(ratings: Sequence[np.ndarray], domains: Sequence[str]) -> dict[str, float]:
    """Compute Krippendorff's alpha (interval) of the ratings of each domain, and of all domains together."""
    names = np.asarray(domains)
    each = {d: [r for r, name in zip(ratings, names, strict=True) if name == d] for d in np.unique(names).tolist()}
    return {d: feedback.krippendorff_alpha(rows) for d, rows in (*each.items(), ("all", list(ratings)))}


def _figures(name: str, held: HeldOutPairs, counted: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    domain = np.asarray(held.domains)[held.pairs[:, 0]]

    def over(chosen: np.ndarray) -> tuple[float | None, list[float] | None]:
        if not chosen.any():  # ties alone
            return None, None
        interval = evaluation.bootstrap_pairs(correct[chosen], held.pairs[chosen], seed=0, within=(0, 1))
        return float(correct[chosen].mean()), list(interval)

    pooled, by_domain = over(counted), {d: over(counted & (domain == d)) for d in np.unique(domain).tolist()}
    return {
        name: pooled[0],
        f"{name}_ci": pooled[1],
        f"{name}_by_domain": {d: mean for d, (mean, _) in by_domain.items()},
        f"{name}_by_domain_ci": {d: interval for d, (_, interval) in by_domain.items()},
    }
