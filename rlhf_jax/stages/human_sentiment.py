"""The quickstart's data set as a task: sentences of four domains with their ratings, its judges and its baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_jax import data, evaluation
from rlhf_jax.data import Demonstration, PromptRow, RatedResponse
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.hutto import PROMPTS
from rlhf_jax.data.parts import Parts
from rlhf_jax.data.rows import Prompt
from rlhf_jax.rewards import TextReward
from rlhf_jax.stages.baselines import baselines
from rlhf_jax.stages.held_out import HeldOutPairs
from rlhf_jax.stages.task import Task

_PARTS = ("train", "validation", "test")


def opening(row: RatedResponse) -> PromptRow:
    """Make a prompt for sampling: the instruction and two to five first words, how many decided by the row's name."""
    count = 2 + int(hashlib.sha256(row.where.encode()).hexdigest(), 16) % 4
    words = row.response.split()
    return PromptRow(" ".join([row.prompt, *words[: max(1, min(count, len(words) - 1))]]), row.where)


def domain_of(prompt: Prompt) -> str:
    """Find the domain whose instruction begins a prompt; empty for any other prompt, and for a chat."""
    if not isinstance(prompt, str):
        return ""
    return next((domain for domain, text in PROMPTS.items() if prompt.startswith(text)), "")


def judges() -> Mapping[str, TextReward]:
    """Make the judges: ``gold`` is ridge regression on the ratings of the validation split, and ``vader`` is VADER.

    No stage trains on the validation split, so ``gold`` is a judge that training never sees.

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
    """Join prompt and response to one sentence, without the instruction.

    Example:
        >>> whole_sentences(["Write a tweet. So"], ["happy today!"])
        ['So happy today!']
    """
    return [f"{_without_instruction(p)} {r}".strip() for p, r in zip(prompts, responses, strict=True)]


def _without_instruction(prompt: str) -> str:
    return prompt.removeprefix(PROMPTS.get(domain_of(prompt), "")).strip()


def _sentences(config: DataConfig, split: str) -> list[RatedResponse]:
    """Read sentences as rated responses to their domain's prompt; ``where`` is a sentence's id."""
    rows = [RatedResponse(PROMPTS[s.domain], s.text, s.ratings, s.id) for s in data.human_sentiment.load(split)]
    if not config.limit:
        return rows
    # Sorted by id the domains follow each other, so a part is drawn across all of them.
    return [rows[i] for i in sorted(data.epoch_order(len(rows), 0, 0)[: config.limit])]


def _parts(make: Callable[[RatedResponse], Any]) -> Callable[[DataConfig], Parts]:
    def read(config: DataConfig) -> Parts:
        train, validation, test = ([make(row) for row in _sentences(config, split)] for split in _PARTS)
        return Parts(train, validation, test)

    return read


def _baselines(held: HeldOutPairs) -> dict[str, Any]:
    """Measure VADER, ridge regression on the train split, and one person."""
    train = data.human_sentiment.load("train")
    ridge = evaluation.fit_ridge([s.text for s in train], [s.ratings.mean() for s in train])
    return baselines(held, {"vader": evaluation.vader, "ridge": ridge})


TASK = Task(
    demonstrations=_parts(lambda row: Demonstration(row.prompt, row.response, row.where)),
    prompts=_parts(opening),
    opinions=_parts(lambda row: row),
    judges=judges,
    baselines=_baselines,
    domain=domain_of,
    instructions=PROMPTS,
    leaves_out_long=True,
)
