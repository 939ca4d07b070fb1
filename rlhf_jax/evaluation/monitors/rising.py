"""What a policy has come to do where the reward is higher, named only where chance does not explain it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhf_jax.evaluation.monitors.distinct import distinct
from rlhf_jax.evaluation.monitors.patterns import Kind, Occurrences, occurrences, words_of

# The probability that anything at all is named of a policy and a reward that no pattern says anything about.
ALPHA = 0.01
# Responses without a pattern, of a hundred, below which the reward cannot be compared inside one evaluation.
FEW_WITHOUT = 0.1
# What hardly a response holds, before and after together, is no habit; looking for it would take most of the time.
RARE = 0.02
# The judge likes a pattern, too, where chance would say so less often than this.
JUDGE_ALPHA = 0.01
_CONSIDERED = 200  # patterns that are named, from which the few that are shown are picked


class Rise(NamedTuple):
    """A pattern that became more frequent, and that responses with a higher reward hold more often."""

    kind: Kind
    text: str  # the words; empty for lists and repetition
    before: int  # responses of the starting policy that hold it
    after: int  # responses of the trained policy that hold it
    of: int  # responses of each
    reward_with: float  # mean reward of the trained policy's responses that hold it
    reward_without: float  # the same of those that do not hold it; where hardly one does not, of both policies'
    inside: bool  # whether the reward was compared inside each policy's responses, and not over both together
    p: float  # probability of the like by chance, before it is held against how many patterns there are
    judge_with: float | None = None  # mean score by a judge that was not trained on, of the same responses
    judge_without: float | None = None
    judge_likes: bool | None = None  # whether the judge, too, scores those that hold it higher, beyond chance


def rising(
    before: Sequence[str],
    after: Sequence[str],
    reward_before: ArrayLike,
    reward_after: ArrayLike,
    *,
    judged: tuple[ArrayLike, ArrayLike] | None = None,
    alpha: float = ALPHA,
    most: int = 8,
) -> list[Rise]:
    """Find the patterns whose frequency rose with the reward.

    A pattern has to pass two tests, and the larger p of the two counts:

    - it rose: ``c`` responses hold it, ``a`` of which are the trained policy's.
      ``p = exp(-c KL(a/c || q))`` bounds the binomial tail; ``q`` is 1/2 for openings, lists and repetition, and for
      words the trained policy's share of all words, at least 1/2, so that longer responses alone make no pattern rise.
    - the reward is higher with it: the sum of the ranks of the rewards of those that hold it, ranked inside each
      policy's responses, against its permutation distribution (normal). Where hardly a response of the trained policy
      is without it, the ranks are those among both policies' responses.

    Among the m patterns that are frequent enough to be able to pass, Holm's procedure names some at ``alpha``: the
    probability that any is named by chance is at most that.

    Args:
        before: n responses of the starting policy.
        after: n responses of the trained policy, to the same prompts.
        reward_before: [n], the reward that was trained on.
        reward_after: [n].
        judged: the same of a judge that was not trained on, before and after; it names nothing.
        alpha: probability that anything is named by chance.
        most: patterns returned.

    Returns:
        The patterns whose frequency rose most, first; where several stand in nearly the same responses, the longest.

    Raises:
        ValueError: if the four are not equally many, or a reward is not finite.

    Example:
        >>> before, after = ["it rains", "it is late"] * 20, ["sure , it rains", "it is late"] * 20
        >>> found = rising(before, after, [0.0, 0.1] * 20, [1.0, 0.1] * 20)
        >>> [(rise.kind, rise.text, rise.before, rise.after) for rise in found]
        [('opening', 'sure , it rains', 0, 20)]

    Source: Holm (1979), A simple sequentially rejective multiple test procedure; on leaving out what cannot pass,
    Tarone (1990), A modified Bonferroni method for discrete data.
    """
    rewards = [np.asarray(x, np.float64) for x in (reward_before, reward_after)]
    n = len(before)
    if len(after) != n or any(x.shape != (n,) for x in rewards):
        raise ValueError(
            f"expected as many responses and rewards on both sides, found {n} and {len(after)} responses, "
            f"and rewards {rewards[0].shape} and {rewards[1].shape}"
        )
    both = np.concatenate(rewards)
    if not np.isfinite(both).all():
        raise ValueError("a reward is not finite: leave out the responses that have none")
    if n < 2:
        return []
    texts = [*before, *after]
    split = [words_of(text) for text in texts]
    fewest = max(math.ceil(math.log2(1 / alpha)), math.ceil(RARE * n))
    found = _testable(occurrences(texts, split, fewest=fewest), alpha, fewest)
    m = len(found.patterns)
    if not m:
        return []
    later = found.response >= n
    was, now = (np.bincount(found.pattern[x], minlength=m) for x in (~later, later))
    words = np.array([len(text) for text in split], np.float64)
    share = max(0.5, float(words[n:].sum() / max(1.0, words.sum())))
    odds = np.where([pattern.kind == "words" for pattern in found.patterns], share, 0.5)
    inside = now <= n * (1 - FEW_WITHOUT)
    p = np.maximum(_rise_test(was, now, odds), _liked(found, both, inside))
    order = sorted(np.flatnonzero(_holm(p, alpha)).tolist(), key=lambda i: (was[i] - now[i], p[i]))[:_CONSIDERED]
    scores = None if judged is None else np.concatenate([np.asarray(x, np.float64) for x in judged])
    likes = None if scores is None else _liked(found, scores, inside) <= JUDGE_ALPHA
    later = np.arange(2 * n) >= n
    rises = []
    for i, pattern, holders in distinct(found, order, split)[:most]:
        held = np.zeros(2 * n, bool)
        held[holders] = True
        own = held & later
        without = ~held & (later | (not inside[i]))
        rises.append(
            Rise(
                **pattern._asdict(),
                before=int((held & ~later).sum()),
                after=int(own.sum()),
                of=n,
                reward_with=float(both[own].mean()),
                reward_without=float(both[without].mean()),
                inside=bool(inside[i]),
                p=float(p[i]),
                judge_with=None if scores is None else float(scores[own].mean()),
                judge_without=None if scores is None else float(scores[without].mean()),
                judge_likes=None if likes is None else bool(likes[i]),
            )
        )
    return rises


def _testable(found: Occurrences, alpha: float, fewest: int) -> Occurrences:
    """Keep patterns that could pass: those of c responses whose smallest p, 2^-c, is below alpha over their number."""
    count = np.bincount(found.pattern, minlength=len(found.patterns))
    while (m := int((count >= fewest).sum())) and m * 2.0**-fewest > alpha:
        fewest += 1
    kept = np.flatnonzero(count >= fewest)
    new = np.full(len(count), -1)
    new[kept] = np.arange(len(kept))
    held = new[found.pattern] >= 0
    return Occurrences(new[found.pattern[held]], found.response[held], [found.patterns[i] for i in kept.tolist()])


def _rise_test(was: np.ndarray, now: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """Bound the probability that so many of all holders are the trained policy's, where its odds are the given ones."""
    count = was + now
    a = now / count
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(a < 1, (1 - a) * np.log((1 - a) / (1 - odds)), 0.0)
        first = np.where(a > 0, a * np.log(a / odds), 0.0)
    return np.where(a > odds, np.exp(-count * (first + rest)), 1.0)


def _liked(found: Occurrences, rewards: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Compute every pattern's p of the rank test, inside each policy's responses where they can be compared there."""
    m, half = len(found.patterns), len(rewards) // 2
    apart = _rank_test(found, rewards, np.repeat([0, 1], half), m)
    return np.where(inside, apart, _rank_test(found, rewards, np.zeros(len(rewards), np.int64), m))


def _rank_test(found: Occurrences, rewards: np.ndarray, groups: np.ndarray, m: int) -> np.ndarray:
    """Compute the one-sided p of every pattern's holders having the higher rewards, ranked inside each group."""
    rank = np.zeros(len(rewards))
    variance = np.zeros(m)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        n = len(members)
        deviation = _mid_ranks(rewards[members]) - (n - 1) / 2
        rank[members] = deviation
        held = np.bincount(found.pattern[groups[found.response] == group], minlength=m)
        variance += held * (n - held) / (n * (n - 1)) * float((deviation**2).sum())
    sums = np.bincount(found.pattern, weights=rank[found.response], minlength=m)
    z = np.where(variance > 0, sums / np.sqrt(np.maximum(variance, 1e-12)), 0.0)
    return np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in z.tolist()])


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """Rank from 0; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[which]


def _holm(p: np.ndarray, alpha: float) -> np.ndarray:
    """Mark the tests that pass, where at most ``alpha`` is the probability that one does by chance."""
    order = np.argsort(p, kind="stable")
    passed = p[order] <= alpha / np.arange(len(p), 0, -1)
    first_failed = int(np.argmin(passed)) if not passed.all() else len(p)
    kept = np.zeros(len(p), bool)
    kept[order[:first_failed]] = True
    return kept
