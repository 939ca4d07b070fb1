"""Pairs to compare from policies: two samples of one, or a sample each of two, to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_jax.compare.items import Item
from rlhf_jax.data.rows import Prompt
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.policy import Policy


def two_samples(policy: Policy, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0) -> list[Item]:
    """Sample two responses of one policy to each prompt.

    Args:
        policy: the policy.
        prompts: what it answers.
        sampling: how to draw.
        seed: the same seed and prompts give the same pairs.

    Returns:
        A pair a prompt; where both responses are the same text, that prompt's pair too.
    """
    rows = list(policy.sample(prompts, n=2, sampling=sampling, seed=seed))
    texts = [row["response"] for row in rows]
    return [Item(prompt, a, b) for prompt, a, b in zip(prompts, texts[::2], texts[1::2], strict=True)]


def one_each(
    policies: tuple[Policy, Policy],
    names: tuple[str, str],
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    *,
    seed: int = 0,
) -> list[Item]:
    """Sample one response of each of two policies to each prompt.

    Args:
        policies: the policies; a is the first one's response.
        names: what the export calls them; no page shows it.
        prompts: what they answer.
        sampling: how to draw.
        seed: the same seed and prompts give the same pairs.

    Returns:
        A pair a prompt.
    """
    a, b = (
        [row["response"] for row in policy.sample(prompts, sampling=sampling, seed=seed + place)]
        for place, policy in enumerate(policies)
    )
    return [
        Item(prompt, first, second, model_a=names[0], model_b=names[1])
        for prompt, first, second in zip(prompts, a, b, strict=True)
    ]
