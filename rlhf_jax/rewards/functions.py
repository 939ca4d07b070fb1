"""Rewards as callables on text: anything that scores responses can train a policy.

A reward takes B prompts and B responses as text and returns B numbers; a reward model, a regular expression, a
classifier from scikit-learn and a call to a judge all fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

TextReward = Callable[[Sequence[str], Sequence[str]], object]
"""``(prompts, responses) -> B numbers``; what it returns is checked by ``score_texts``."""


def score_texts(reward: TextReward, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Call a reward on texts and check what comes back.

    Args:
        reward: ``(prompts, responses) -> numbers``.
        prompts: B texts.
        responses: B texts.

    Returns:
        float32 [B]. Integers are converted, so a 0/1 reward is not truncated by anything added to it later.

    Raises:
        ValueError: when the reward returns another number of scores, or one that is not finite.

    Example:
        >>> score_texts(lambda prompts, responses: [len(r) for r in responses], ["a", "b"], ["x", "xyz"])
        array([1., 3.], dtype=float32)
    """
    scores = np.asarray(reward(prompts, responses), dtype=np.float32)
    if scores.shape != (len(responses),):
        raise ValueError(
            f"the reward returned shape {scores.shape} for {len(responses)} responses: it must return one number each"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        i = int(bad[0])
        raise ValueError(f"the reward gave {scores[i]} to response {i}, {responses[i]!r}: rewards must be finite")
    return scores
