"""Rewards as callables on text: anything that scores responses can train a policy.

A reward takes B prompts and B responses as text and returns B numbers; a reward model, a regular expression, a
classifier from scikit-learn and a call to a judge all fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

TextReward = Callable[[Sequence[str], Sequence[str]], object]
"""``(prompts, responses) -> B numbers``; what it returns is checked by ``score_texts``."""


def score_texts(
    reward: TextReward, prompts: Sequence[str], responses: Sequence[str], *, called: str = "the reward"
) -> np.ndarray:
    """Call a reward on texts and check what comes back.

    Args:
        reward: ``(prompts, responses) -> numbers``.
        prompts: B texts.
        responses: B texts.
        called: what messages call it: a judge is not to blame a reward.

    Returns:
        float32 [B]. Integers are converted, so a 0/1 reward is not truncated by anything added to it later.

    Raises:
        ValueError: when the reward returns no numbers, another number of them, or one that is not finite.

    Example:
        >>> score_texts(lambda prompts, responses: [len(r) for r in responses], ["a", "b"], ["x", "xyz"])
        array([1., 3.], dtype=float32)
        >>> score_texts(lambda prompts, responses: [{"score": 1.0}], ["a"], ["x"])
        Traceback (most recent call last):
        ...
        ValueError: the reward must return one number for each response, found {'score': 1.0} (dict) for response 0
    """
    found: Any = reward(prompts, responses)
    try:
        scores = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{called} must return one number for each response, found {_odd_one(found)}") from error
    if scores.shape != (len(responses),):
        raise ValueError(
            f"{called} returned shape {scores.shape} for {len(responses)} responses: it must return one number each"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        i = int(bad[0])
        raise ValueError(f"{called} gave {scores[i]} to response {i}, {responses[i]!r}: scores must be finite")
    return scores


def _odd_one(found: Any) -> str:
    """Name what is no number in what a reward returned: the first such entry of a list, or the whole."""
    for i, one in enumerate(found if isinstance(found, list | tuple) else ()):
        if not isinstance(one, int | float | np.number):
            return f"{one!r:.80} ({type(one).__name__}) for response {i}"
    return f"{found!r:.80} ({type(found).__name__})"
