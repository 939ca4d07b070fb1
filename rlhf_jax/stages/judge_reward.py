"""A judge that votes as a reward: a number for each response, of its votes against the others, or of its scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from rlhf_jax import processes
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.rows import Prompt
from rlhf_jax.feedback.judges import Judge, Verdicts, checked_scores, judged
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.sampler import TEST, Sampler
from rlhf_jax.types import Rollout


class JudgeReward:
    """A reward for ``ppo``, ``group`` and ``best_of_n`` from anybody who votes among responses.

    Where the judge scores, the reward is the score. Otherwise a response's reward is the mean of the votes for it
    against the other responses to its prompt, from 0 to 1; a response alone is compared with one of the reference
    policy's own, which is the same at every step, so that the mean is the judge's win rate against the reference.
    Equal texts are even without being asked about.

    Called like any reward, it scores responses alone, which a judge has to have ``scores`` for.

    Args:
        judge: ``(prompts, responses) -> votes``.
        name: what messages and the page call it; by default the function's name.
    """

    def __init__(self, judge: Judge, name: str = ""):
        self.judge, self.name = judge, name or called(judge)
        self._scores: bool | None = None  # whether it scores; not known before it was asked

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Score responses alone, float32 [n].

        One that the judge abstains on gets the mean of the others, with a warning.

        Raises:
            RunError: when the judge compares only, or abstains on all.
        """
        if not self.scores(prompts):
            raise RunError(
                f"{self.name} compares responses and scores none alone, as a measuring judge must: ask a language "
                'model for scores (how = "scores" in a .toml file that names it), or name another judge'
            )
        scores = self.among(prompts, [[text] for text in responses])[:, 0]
        if (missing := int(np.isnan(scores).sum())) and missing < len(scores):
            said = f"{self.name} gave no score to {missing} of {len(scores)} responses: they count as the mean"
            print(f"warning: {said}", file=sys.stderr)
        return filled(scores[:, None], self.name)[:, 0]

    def scores(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the judge scores; it is asked about two short texts once, which shows mistakes in it too.

        Args:
            prompts: some that it is to judge; the first two are asked about.

        Raises:
            RunError: when it fails, or what it says are no votes.
        """
        if self._scores is None and prompts:
            asked = list(prompts[:2])
            try:
                # A policy may say nothing at all.
                said = judged(self.judge, asked, [["", "A short response."]] * len(asked), called="it")
            except Exception as error:  # whatever a judge of the user's own raises
                raise RunError(f"{self.name}: {error}") from error
            self._scores = said.scores is not None
        return bool(self._scores)

    def among(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> np.ndarray:
        """Make a number of what the judge says of each of K responses, float32 [B, K]; NaN where it abstained.

        Args:
            prompts: B prompts.
            responses: K texts to each; K may be 1 where the judge scores.

        Raises:
            ValueError: when what it says are no votes.

        Example:
            >>> longer = lambda prompts, responses: [float(len(a) > len(b)) for a, b in responses]
            >>> JudgeReward(longer).among(["Hi."], [["Hello!", "No.", "Hello!"]]).tolist()  # equal texts are even
            [[0.75, 0.0, 0.75]]
        """
        found = np.full((len(responses), len(responses[0]) if responses else 1), np.nan, np.float32)
        by_size: dict[int, list[int]] = {}
        distinct = [list(dict.fromkeys(texts)) for texts in responses]
        for row, texts in enumerate(distinct):
            by_size.setdefault(len(texts), []).append(row)
        scores = self.scores(prompts)
        for size, rows in sorted(by_size.items()):
            if size == 1 and not scores:
                found[rows] = 0.5
                continue
            said = self._asked([prompts[row] for row in rows], [distinct[row] for row in rows])
            for at, row in enumerate(rows):
                places = [distinct[row].index(text) for text in responses[row]]
                found[row] = _numbers(said, at, places)
        return found

    def _asked(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> Verdicts:
        if len(responses[0]) > 1:
            return judged(self.judge, prompts, responses, called=self.name)
        said = self.judge(prompts, responses)
        if not isinstance(said, Verdicts) or said.scores is None:
            raise ValueError(f"{self.name} must return Verdicts with scores [{len(responses)}, 1] for responses alone")
        return said._replace(scores=checked_scores(said.scores, (len(responses), 1), self.name))


def judged_rollout(
    reward: JudgeReward, sampler: Sampler, sampled: Rollout, prompts: Sequence[EncodedPrompt]
) -> tuple[np.ndarray, np.ndarray]:
    """Have a judge score the responses of a rollout, each process its share of the prompts.

    A response that the judge abstained on gets the mean of its group, and where it abstained on all of a group, that
    of the batch: it teaches nothing.

    Args:
        reward: the judge as a reward.
        sampler: turns rollouts into text, and holds the reference.
        sampled: the responses, [B, K].
        prompts: B of them.

    Returns:
        The scores, float32 [B, K], and where it abstained, bool [B, K].

    Raises:
        RunError: when it abstained on everything.
        OtherProcessError: it failed in another process.
    """
    b, k = sampled.tokens.shape[:2]
    texts, asked = sampler.texts(sampled), [prompt.text for prompt in prompts]
    groups = [texts[row * k : (row + 1) * k] for row in range(b)]
    if k == 1 and not reward.scores(asked):
        others = sampler.texts(sampler(sampler.reference, prompts, TEST))
        groups = [[own, other] for (own,), other in zip(groups, others, strict=True)]
    found = _shared(reward, asked, groups)[:, :k]
    return filled(found, reward.name), np.isnan(found)


def filled(scores: np.ndarray, called: str) -> np.ndarray:
    """Give what has no number the mean of its group, or else of all.

    Args:
        scores: [B, K], NaN where there is none.
        called: what messages call who gave them.

    Raises:
        RunError: when there is no number at all.

    Example:
        >>> filled(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]]), "it").tolist()
        [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]
    """
    there = ~np.isnan(scores)
    if scores.size and not there.any():
        raise RunError(f"{called} abstained on all of {scores.size} responses, so there is nothing to go by")
    count = there.sum(-1, keepdims=True)
    total = np.where(there, scores, 0).sum(-1, keepdims=True)
    mean = np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(1, there.sum()))
    return np.where(there, scores, mean).astype(np.float32)


def _numbers(said: Verdicts, at: int, places: Sequence[int]) -> np.ndarray:
    """The reward of each response of a group, from what was said of its distinct texts."""
    if said.scores is not None:
        return np.asarray(said.scores[at], np.float32)[places]
    votes = np.asarray(said.votes)[at][np.ix_(places, places)]
    even = np.equal.outer(places, places)
    votes = np.where(even, 0.5, votes)
    votes[np.eye(len(places), dtype=bool)] = np.nan  # nobody votes against oneself
    there = ~np.isnan(votes)
    count = there.sum(-1)
    mean = np.where(there, votes, 0).sum(-1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)


def _shared(reward: JudgeReward, prompts: Sequence[Prompt], groups: Sequence[Sequence[str]]) -> np.ndarray:
    if not processes.several():
        return reward.among(prompts, groups)
    part = processes.share(len(groups))

    def own() -> np.ndarray:
        return reward.among(prompts[part], groups[part]) if groups[part] else np.zeros((0, len(groups[0])), np.float32)

    found = processes.agree(own, reward.name)
    return np.concatenate(
        [np.frombuffer(x, np.float32).reshape(-1, len(groups[0])) for x in processes.exchange(found.tobytes())]
    )
