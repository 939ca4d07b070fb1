"""Whether a reward model ranks held-out pairs as people do, how sure it is, and whether it failed in a known way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.calibration import calibration
from rlhf_jax.evaluation.intervals import bootstrap_pairs

# People are divided on a pair when between one and four fifths of their votes go to either side.
DECIDED = 0.8
# Shares come from float32 vote counts: equal up to this is equal.
EVEN = 1e-6
LOW_ACCURACY, HIGH_ACCURACY = 0.65, 0.90
FEWEST_PAIRS = 20  # fewer different ones say nothing of a model
# A pair is saturated when the model gives it odds beyond 99:1, collapsed when the odds hardly leave 1:1.
SATURATED, COLLAPSED_STD = 0.99, 0.05


def pair_accuracy(scores: ArrayLike, pairs: ArrayLike, share: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs that have a majority, and whether the scores agree with it.

    Args:
        scores: [n], one a sentence.
        pairs: int [m, 2].
        share: [m], the share of votes for the first of the pair.

    Returns:
        (counted, correct): bool [m], True where the votes are not exactly even; float64 [m], 1 where the scores
        order the pair as the majority does, 0 where not, 1/2 where the scores tie.

    Example:
        >>> counted, correct = pair_accuracy([2.0, 1.0], [[0, 1], [1, 0], [0, 1]], [0.9, 0.9, 0.5])
        >>> counted.tolist(), correct[:2].tolist()
        ([True, True, False], [1.0, 0.0])
    """
    values, ij, votes = _checked(scores, pairs, share)
    gap = values[ij[:, 0]] - values[ij[:, 1]]
    counted = np.abs(votes - 0.5) > EVEN
    return counted, np.where(gap == 0, 0.5, (gap > 0) == (votes > 0.5)).astype(np.float64)


def reliability(gap: ArrayLike, share: ArrayLike, *, bins: int = 10) -> tuple[float, list[dict[str, float]]]:
    r"""Calibration of sigmoid(score difference) against vote shares.

    Each pair is turned so that the model prefers its first, which makes the figure independent of the order in which
    pairs were written down. ``ECE = sum_b (n_b / n) |mean confidence_b - mean vote share_b|``, with bins of equal width
    over [0.5, 1].

    Args:
        gap: [m], score of the first minus score of the second.
        share: [m], the share of votes for the first.
        bins: how many bins.

    Returns:
        (ece, rows): a row for each bin that holds a pair, with ``low``, ``high``, ``confidence``, ``observed`` and
        ``pairs``.

    Raises:
        ValueError: if the shapes disagree or there is no pair.

    Example:
        >>> ece, rows = reliability([4.0, -4.0], [1.0, 0.0])
        >>> round(ece, 3), rows[0]["pairs"]
        (0.018, 2)

    Source: Guo et al. (2017), On calibration of modern neural networks, section 2.
    """
    d, votes = np.asarray(gap, np.float64), np.asarray(share, np.float64)
    if d.ndim != 1 or d.shape != votes.shape or d.size == 0:
        raise ValueError(f"expected gap [m] and share [m] with m > 0, found {d.shape} and {votes.shape}")
    return calibration(_sigmoid(d), votes, bins=bins)


def reward_quality(
    scores: ArrayLike,
    pairs: ArrayLike,
    share: ArrayLike,
    domains: Sequence[str],
    lengths: ArrayLike,
    *,
    golden: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute everything the report says about a scorer on held-out pairs, as JSON values.

    Intervals resample sentences, not pairs (see ``bootstrap_pairs``). Pairs with exactly even votes have no right
    answer and count in the calibration only.

    Args:
        scores: [n], one a sentence.
        pairs: int [m, 2]; both sentences of a pair are of one domain.
        share: [m], the share of votes for the first of the pair.
        domains: [n].
        lengths: [n], in tokens or characters.
        golden: indices of the sentences on which people agree most; None leaves the golden figures out.
        seed: what the intervals' resampling depends on.

    Returns:
        ``accuracy``, ``accuracy_ci``, ``pairs``, ``accuracy_decided``, ``accuracy_decided_ci``, ``pairs_decided``,
        ``accuracy_by_domain``, ``accuracy_by_domain_ci``, ``pairs_by_domain``, ``ece``, ``reliability``,
        ``reward_mean``, ``reward_std``, ``golden_accuracy``, ``golden_accuracy_ci``, ``golden_pairs``,
        ``longer_wins``, ``longer_wins_people``, ``pairs_uneven``, ``warnings``. A figure is None where
        no pair speaks to it.

    Raises:
        ValueError: if shapes disagree, an index is out of range, a share is outside [0, 1] or a score is not finite.

    Example:
        >>> found = reward_quality([2.0, 1.0, 0.0], [[0, 1], [1, 2]], [0.9, 0.6], ["a", "a", "a"], [3, 4, 5])
        >>> found["accuracy"], found["longer_wins"]
        (1.0, 0.0)
    """
    values, ij, votes = _checked(scores, pairs, share)
    names, sizes = np.asarray(domains), np.asarray(lengths, np.float64)
    if names.shape != values.shape or sizes.shape != values.shape:
        raise ValueError(f"expected domains and lengths for {values.size} scores, found {names.shape}, {sizes.shape}")
    counted, correct = pair_accuracy(values, ij, votes)
    gap = values[ij[:, 0]] - values[ij[:, 1]]
    pair_domain = names[ij[:, 0]]

    def over(chosen: np.ndarray) -> tuple[float | None, list[float] | None, int]:
        chosen = chosen & counted
        if not chosen.any():
            return None, None, 0
        low, high = bootstrap_pairs(correct[chosen], ij[chosen], seed=seed, within=(0, 1))
        return float(correct[chosen].mean()), [low, high], int(chosen.sum())

    accuracy, accuracy_ci, n_pairs = over(np.ones_like(counted))
    decided, decided_ci, n_decided = over(np.abs(votes - 0.5) > DECIDED - 0.5 + EVEN)
    by_domain = {domain: over(pair_domain == domain) for domain in dict.fromkeys(pair_domain.tolist())}
    golden_accuracy, golden_ci, n_golden = None, None, 0
    if golden is not None:
        golden_accuracy, golden_ci, n_golden = over(np.all(np.isin(ij, np.asarray(golden)), axis=1))
    ece, rows = reliability(gap, votes)
    longer = sizes[ij[:, 0]] - sizes[ij[:, 1]]
    model_longer, people_longer = _longer_wins(gap, votes, longer)
    return {
        "accuracy": accuracy,
        "accuracy_ci": accuracy_ci,
        "pairs": n_pairs,
        "accuracy_decided": decided,
        "accuracy_decided_ci": decided_ci,
        "pairs_decided": n_decided,
        "accuracy_by_domain": {domain: mean for domain, (mean, _, _) in by_domain.items()},
        "accuracy_by_domain_ci": {domain: ci for domain, (_, ci, _) in by_domain.items()},
        "pairs_by_domain": {domain: count for domain, (_, _, count) in by_domain.items()},
        "ece": ece,
        "reliability": rows,
        "reward_mean": float(values.mean()),
        "reward_std": float(values.std()),
        "golden_accuracy": golden_accuracy,
        "golden_accuracy_ci": golden_ci,
        "golden_pairs": n_golden,
        "longer_wins": model_longer,
        "longer_wins_people": people_longer,
        "pairs_uneven": int((longer != 0).sum()),
        "warnings": _warnings(accuracy, values, gap) if _enough(ij[counted]) else [],
    }


def _longer_wins(gap: np.ndarray, votes: np.ndarray, longer: np.ndarray) -> tuple[float | None, float | None]:
    """Compute how often the model, and the majority of people, prefer the longer response of an unequal pair."""
    uneven = longer != 0
    if not uneven.any():
        return None, None
    side = np.sign(longer[uneven])
    model = (1 + np.sign(gap[uneven]) * side) / 2
    people = (1 + np.sign(votes[uneven] - 0.5) * side) / 2
    return float(model.mean()), float(people.mean())


def _enough(pairs: np.ndarray) -> bool:
    """Tell whether there are enough different pairs to say anything of a model; one that is drawn twice is one."""
    return len(np.unique(np.sort(pairs, axis=1), axis=0)) >= FEWEST_PAIRS


def _warnings(accuracy: float | None, scores: np.ndarray, gap: np.ndarray) -> list[str]:
    found = []
    if accuracy is not None and accuracy < LOW_ACCURACY:
        found.append(
            f"Accuracy is {accuracy:.1%}, below {LOW_ACCURACY:.0%}: a policy trained on this reward learns mostly "
            "noise. More comparisons or a longer supervised stage may help."
        )
    if accuracy is not None and accuracy > HIGH_ACCURACY:
        found.append(
            f"Accuracy is {accuracy:.1%}, above {HIGH_ACCURACY:.0%}, more than people reach on each other's votes: "
            "look for training sentences among the held-out ones, or for a surface cue."
        )
    saturated = float((_sigmoid(np.abs(gap)) > SATURATED).mean())
    if saturated > 0.5:
        found.append(
            f"Rewards are saturated: {saturated:.0%} of the pairs get odds beyond 99 to 1. "
            "The loss has no gradient there; fewer passes or the centring term may help."
        )
    spread = float(scores.std())
    if spread < COLLAPSED_STD:
        found.append(
            f"Rewards have collapsed: their standard deviation is {spread:.3g}, so the policy sees nearly one constant."
        )
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _checked(scores: ArrayLike, pairs: ArrayLike, share: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, ij, votes = np.asarray(scores, np.float64), np.asarray(pairs), np.asarray(share, np.float64)
    if values.ndim != 1 or ij.ndim != 2 or ij.shape[1:] != (2,) or votes.shape != ij.shape[:1] or not len(ij):
        raise ValueError(
            "expected scores [n], pairs [m, 2] and share [m] with m > 0, "
            f"found {values.shape}, {ij.shape} and {votes.shape}"
        )
    if ij.min() < 0 or ij.max() >= values.size:
        raise ValueError(f"pairs must index the {values.size} scores, found {ij.min()} to {ij.max()}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} scores are not finite")
    if not ((votes >= -EVEN) & (votes <= 1 + EVEN)).all():
        raise ValueError(f"share must lie in [0, 1], found {votes.min()} to {votes.max()}")
    return values, ij, np.clip(votes, 0.0, 1.0)
