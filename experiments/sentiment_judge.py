"""A language model as a judge of tone that reads one text at a time: how much likelier "positive" is than "negative".

Not an experiment itself: ``rlaif.py`` asks it. ``--judge experiments/sentiment_judge.py:smollm2`` is SmolLM2-135M.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.feedback.judges import Verdicts, from_scores
from rlhf_jax.judges.language_model import LanguageModel
from rlhf_jax.runs.fetch import fetch
from rlhf_jax.stages.human_sentiment import whole_sentences

WORDS = ("positive", "negative")


def question(text: str) -> str:
    """Write what the model goes on with."""
    return f"Text: {text}\nSentiment:"


@functools.cache
def model(path: str) -> LanguageModel:
    """Load a checkpoint, or the policy of a run, once; it reads plain text, no chat."""
    found = LanguageModel.load(path)
    return LanguageModel(found.config, found.params, found.tokenizer.with_format("plain"), found.called)


def score(path: str, prompts: Sequence[Any], responses: Sequence[str]) -> np.ndarray:
    """Score texts: ``log P(positive) - log P(negative)``, [n]."""
    asked: list[Any] = [question(text) for text in whole_sentences(prompts, responses)]  # plain text, not a chat
    shares = model(path).choose(asked, WORDS)
    return np.log(np.maximum(shares[:, 0], 1e-9)) - np.log(np.maximum(shares[:, 1], 1e-9))


def smollm2_score(prompts: Sequence[Any], responses: Sequence[str]) -> np.ndarray:
    """Score texts with SmolLM2-135M-Instruct."""
    return score(str(fetch("smollm2-135m")), prompts, responses)


def smollm2(prompts: Sequence[Any], responses: Sequence[Sequence[str]]) -> Verdicts:
    """Vote with SmolLM2-135M-Instruct; the difference of two scores is the log-odds of a vote."""
    return from_scores(smollm2_score)(prompts, responses)
