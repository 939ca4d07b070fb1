"""What a judge is: a function from K responses to each of B prompts to votes among them, checked where it is called.

Whoever votes, a person, a language model or a rule, votes are shares. A judge that does not know abstains: no vote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

_SUM = 1e-4  # how far the shares of a pair may be from adding up to 1


class Verdicts(NamedTuple):
    """What a judge says of K responses to each of B prompts."""

    votes: np.ndarray
    """float32 [B, K, K]: the share for i against j, where [i, j] + [j, i] = 1. NaN in both where the judge abstained, 0
    where i = j."""
    shown: np.ndarray | None = None
    """float32 [B, K, K], where the judge reads two responses in an order: the share for i where i was shown first and j
    second. ``votes`` is the mean of both orders, ``(shown[i, j] + 1 - shown[j, i]) / 2``."""
    scores: np.ndarray | None = None
    """float32 [B, K], where votes come of a score for each response; NaN where the judge abstained."""


class Judge(Protocol):
    """Anything that votes among responses."""

    def __call__(self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], /) -> Verdicts | Any:
        """Vote among K responses to each of B prompts.

        Args:
            prompts: B texts, or chats up to the turn that is answered.
            responses: B lists of K texts.

        Returns:
            ``Verdicts``; or votes alone, [B, K, K]; or, for pairs, the share for the first response, [B].
        """


def judged(judge: Judge, prompts: Sequence[Any], responses: Sequence[Sequence[str]], *, called: str) -> Verdicts:
    """Ask a judge, and check what it says.

    Args:
        judge: the judge.
        prompts: B prompts.
        responses: B lists of K texts, K at least 2.
        called: what messages call the judge.

    Returns:
        The verdicts, with votes as float32 [B, K, K].

    Raises:
        ValueError: when the numbers of prompts and responses do not fit, or the judge says anything but shares from 0
            to 1 that add up to 1 for every pair; or what stands beside them has another shape, or is infinite.

    Example:
        >>> longer = lambda prompts, responses: [float(len(a) > len(b)) for a, b in responses]
        >>> judged(longer, ["Hi."], [["Hello!", "No."]], called="longer").votes.tolist()
        [[[0.0, 1.0], [0.0, 0.0]]]
    """
    sizes = {len(each) for each in responses}
    if len(prompts) != len(responses) or len(sizes) > 1 or min(sizes, default=2) < 2:
        raise ValueError(
            f"{called}: expected as many responses, at least 2, to each of {len(prompts)} prompts, found "
            f"{len(responses)} lists of {', '.join(map(str, sorted(sizes)))}"
        )
    k = sizes.pop() if sizes else 2
    found = judge(prompts, responses) if responses else np.zeros((0, k, k))
    verdicts = found if isinstance(found, Verdicts) else Verdicts(found)
    b = len(responses)
    shown, scores = verdicts.shown, verdicts.scores
    return Verdicts(
        _checked(verdicts.votes, b, k, called),
        None if shown is None else _beside(shown, (b, k, k), f"{called} must return what was shown"),
        None if scores is None else checked_scores(scores, (b, k), called),
    )


def checked_scores(scores: Any, shape: tuple[int, ...], called: str) -> np.ndarray:
    """Check what a judge gives for scores.

    Args:
        scores: what it gave.
        shape: what shape they have to have.
        called: what messages call the judge.

    Returns:
        The scores, float32; NaN where there is none.

    Raises:
        ValueError: when they are no numbers, infinite, or of another shape.

    Example:
        >>> checked_scores([1, None], (2,), "mine").tolist()
        [1.0, nan]
    """
    return _beside(scores, shape, f"{called} must return scores")


def _beside(values: Any, shape: tuple[int, ...], must: str) -> np.ndarray:
    found = _numbers(values, must)
    if found.shape != shape:
        raise ValueError(f"{must} {list(shape)}, found shape {list(found.shape)}")
    if np.isinf(found).any():
        raise ValueError(f"{must} that are finite, or NaN where it abstains, found {found[np.isinf(found)][0]:g}")
    return found


def _numbers(values: Any, must: str) -> np.ndarray:
    """Take numbers for numbers, and what is hidden or None for none: texts of digits are no numbers."""
    try:
        given: Any = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if given.dtype.kind == "O" and all(x is None or isinstance(x, float | int | np.number) for x in given.flat):
            given = given.astype(np.float64)
        if given.dtype.kind not in "fiub":  # "V" is bfloat16, which others have registered
            given = np.asarray(given, np.float32) if given.dtype.kind == "V" and given.dtype.fields is None else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{must}, found {values!r:.80}") from error
    if given is None:
        raise ValueError(f"{must}, found {values!r:.80}")
    with np.errstate(over="ignore"):  # what is too large is infinite, and told of as that
        return np.asarray(np.ma.filled(given.astype(np.float32), np.nan))


def votes_of_scores(scores: Any, *, scale: float = 1.0) -> np.ndarray:
    """Turn a score for each response into votes, as Bradley and Terry do.

    ``P(i > j) = sigmoid((s_i - s_j) / scale)``

    Args:
        scores: [B, K]; NaN where there is none.
        scale: how large a difference makes odds of e to 1; 0 takes the sign of the difference for a whole vote, and a
            tie for half of one.

    Returns:
        float32 [B, K, K]; NaN in every pair of a response without a score.

    Example:
        >>> votes_of_scores([[2.0, 1.0, np.nan]], scale=0.0)[0].tolist()
        [[0.0, 1.0, nan], [0.0, 0.0, nan], [nan, nan, 0.0]]
    """
    s = np.asarray(scores, np.float64)
    gap = s[..., :, None] - s[..., None, :]
    votes = 1 / (1 + np.exp(-np.clip(gap / scale, -500, 500))) if scale else 0.5 + 0.5 * np.sign(gap)
    diagonal = np.eye(s.shape[-1], dtype=bool)
    return np.where(diagonal, 0.0, votes).astype(np.float32)


def from_scores(score: Callable[[Sequence[Any], Sequence[str]], Any], *, scale: float = 1.0) -> Judge:
    """Make a judge of anything that scores one response at a time: a reward model, a rule, a word list.

    Args:
        score: ``(prompts, responses) -> numbers``, a text of either for each number.
        scale: as ``votes_of_scores`` has it: 1 for a reward model, whose differences are log-odds.

    Returns:
        The judge; its verdicts have ``scores``.

    Example:
        >>> judge = from_scores(lambda prompts, responses: [len(r) for r in responses], scale=0.0)
        >>> judge(["Hi."], [["Hello!", "No."]]).scores.tolist()
        [[6.0, 3.0]]
    """

    def vote(prompts: Sequence[Any], responses: Sequence[Sequence[str]], /) -> Verdicts:
        k = len(responses[0]) if responses else 2
        asked = [prompt for prompt in prompts for _ in range(k)]
        given = [text for each in responses for text in each]
        scores = checked_scores(score(asked, given), (len(given),), "a function of one response").reshape(-1, k)
        return Verdicts(votes_of_scores(scores, scale=scale), scores=scores)

    return vote


def of_both_orders(shown: Any) -> np.ndarray:
    """Average what a judge says in both orders, so that a taste for the first place takes nobody's side.

    ``votes[i, j] = (shown[i, j] + 1 - shown[j, i]) / 2``

    Args:
        shown: [B, K, K], the share for i where i was shown first and j second; NaN where the judge abstained. An order
            without an answer leaves the pair without a vote: the other one alone would be biased.

    Returns:
        float32 [B, K, K].

    Example:
        >>> of_both_orders([[[0.0, 1.0], [0.5, 0.0]]])[0].tolist()  # it likes what comes first
        [[0.0, 0.75], [0.25, 0.0]]
    """
    first = np.asarray(shown, np.float64)
    votes = (first + 1 - np.swapaxes(first, -1, -2)) / 2
    return np.where(np.eye(first.shape[-1], dtype=bool), 0.0, votes).astype(np.float32)


def _checked(votes: Any, b: int, k: int, called: str) -> np.ndarray:
    found = _numbers(votes, f"{called} must return votes")
    if k == 2 and found.shape == (b,):
        zero = np.zeros_like(found)
        found = np.stack([np.stack([zero, found], -1), np.stack([1 - found, zero], -1)], -2)
    if found.shape != (b, k, k):
        pairs = f", or [{b}], the share for the first of two" if k == 2 else ""
        raise ValueError(f"{called} must return votes [{b}, {k}, {k}]{pairs}, found shape {list(found.shape)}")
    found = np.where(np.eye(k, dtype=bool), np.float32(0), found)
    other = np.swapaxes(found, -1, -2)
    off = ~np.eye(k, dtype=bool)
    said = ~np.isnan(found)
    share, rest = np.clip(found, 0, 1), np.clip(other, 0, 1)
    wrong = off & ((said != ~np.isnan(other)) | (said & ((share != found) | (abs(share + rest - 1) > _SUM))))
    if wrong.any():
        row, i, j = (int(x) for x in np.argwhere(wrong)[0])
        raise ValueError(
            f"{called}: votes of a pair must be shares from 0 to 1 that add up to 1, or both NaN where it abstains: "
            f"found {found[row, i, j]:g} and {found[row, j, i]:g} for responses {i} and {j} to prompt {row}"
        )
    return found
