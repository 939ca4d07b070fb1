"""Judges that training never sees, for the human_sentiment task: they measure a policy and train none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_jax import data, evaluation
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.rewards import TextReward
from rlhf_jax.stages.sources import domain_of


def human_sentiment_judges() -> Mapping[str, TextReward]:
    """``gold``: ridge regression fitted on the ratings of the *validation* split, which no stage trains on; and VADER.

    Returns:
        Judges by name; each reads the sentence a prompt begins and a response completes, without the instruction.
    """
    sentences = data.human_sentiment.load("validation")
    ridge = evaluation.fit_ridge([s.text for s in sentences], [s.ratings.mean() for s in sentences])
    return {
        "gold": lambda prompts, responses: ridge(whole_sentences(prompts, responses)),
        "vader": lambda prompts, responses: evaluation.vader(whole_sentences(prompts, responses)),
    }


def whole_sentences(prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
    """Prompt and response as one sentence, the instruction taken off.

    Example:
        >>> whole_sentences(["Write a tweet. So"], ["happy today!"])
        ['So happy today!']
    """
    return [f"{_without_instruction(p)} {r}".strip() for p, r in zip(prompts, responses, strict=True)]


def _without_instruction(prompt: str) -> str:
    return prompt.removeprefix(PROMPTS.get(domain_of(prompt), "")).strip()
