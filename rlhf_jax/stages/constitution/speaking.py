"""Who answers, criticises and revises: a policy, with draws that another call repeats, or a function."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_jax.data.rows import Prompt
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.constitution.chain import Said, Say

Reviser = Callable[[Sequence[Prompt]], Sequence[str]]  # from chats to what is said next in each


def speak(policy: Policy, prompts: Sequence[Prompt], sampling: SamplingConfig, seed: tuple[int, ...]) -> list[Said]:
    """Let a policy answer, and say which answers came to their end.

    Args:
        policy: who answers.
        prompts: texts or chats.
        sampling: how.
        seed: the same numbers give the same answers.

    Returns:
        An answer to each.
    """
    number = int.from_bytes(hashlib.sha256(json.dumps(seed).encode("ascii")).digest()[:4], "big")
    ends = set(policy.tokenizer.end_ids)
    return [
        # A response of the full length that ended with a stop string counts as cut off: it cannot be told from others.
        Said(row["response"], len(row["tokens"]) < sampling.max_new_tokens or row["tokens"][-1] in ends)
        for row in policy.sample(prompts, sampling=sampling, seed=number)
    ]


def of_policy(policy: Policy, sampling: SamplingConfig, seed: int, start: int) -> Say:
    """Let a policy criticise and revise some responses: every call is another draw.

    Args:
        policy: who does.
        sampling: how critiques and revisions are drawn.
        seed: the config's.
        start: the place of the first of these responses among all.
    """
    steps = itertools.count(1)
    return lambda chats: speak(policy, chats, sampling, (seed, start, next(steps)))


def of_function(reviser: Reviser) -> Say:
    """Let a function criticise and revise.

    Args:
        reviser: the function.

    Returns:
        What checks that it says a text for each chat, and raises a ``ValueError`` where it does not.

    Example:
        >>> of_function(lambda chats: ["Yes."])(["Hi."])
        [Said(text='Yes.', finished=True)]
    """

    def say(chats: Sequence[Any]) -> list[Said]:
        texts = list(reviser(chats))
        if len(texts) != len(chats) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"the reviser {called(reviser)} must return a text for each of {len(chats)} chats, found {texts!r:.80}"
            )
        return [Said(text, True) for text in texts]

    return say
