"""What a model is asked: questions as chats, whoever answers them, and what can answer them.

A model on this machine and one behind an address are asked the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rlhf_jax.data.rows import Chat, Message, Prompt, prompt_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCORES = tuple(range(1, 11))
BETTER = "The response answers the prompt better: it is correct, helpful and well written."
"""What responses are compared by where nobody says by what."""


class Asked(Protocol):
    """A model that answers questions with one of a few words, or with an order."""

    @property
    def cost(self) -> float:
        """What all answers so far have cost; 0 where nothing is paid."""

    def choose(self, questions: Sequence[Chat], answers: Sequence[str]) -> np.ndarray:
        """Answer each question with one of the same few words.

        Args:
            questions: n chats, up to the turn that answers.
            answers: A words.

        Returns:
            float32 [n, A]: the share of each answer, which add up to 1; NaN in a row where there is no answer.
        """

    def order(self, questions: Sequence[Chat], count: int) -> np.ndarray:
        """Put the responses of each question in order.

        Args:
            questions: n chats, in which responses go by the first letters.
            count: how many responses each shows, K.

        Returns:
            float32 [n, K, K]: the share for the response at one place against that at another, in the order in which
            they were shown; NaN where there is no answer.
        """


def pair_question(prompt: Prompt, first: str, second: str, criterion: str = BETTER) -> Chat:
    """Ask which of two responses is better; the answer is A or B.

    Args:
        prompt: what both answer.
        first: the response that is called A.
        second: the one that is called B.
        criterion: a sentence that is true of a good response.

    Returns:
        The question.

    Example:
        >>> print(pair_question("Hi.", "Hello!", "No.", "The response is kind.")[0].content)
        Prompt: Hi.
        <BLANKLINE>
        Response A: Hello!
        <BLANKLINE>
        Response B: No.
        <BLANKLINE>
        Of which response is this more true: The response is kind.
        Answer with A or B only.
    """
    return _asked(
        prompt, _shown([first, second]), f"Of which response is this more true: {criterion}\nAnswer with A or B only."
    )


def score_question(prompt: Prompt, response: str, criterion: str = BETTER) -> Chat:
    """Ask for a score of one response; the answer is a whole number from 1 to 10.

    Args:
        prompt: what the response answers.
        response: the response.
        criterion: a sentence that is true of a good response.

    Returns:
        The question.
    """
    return _asked(
        prompt,
        f"Response: {response}",
        f"How true is this, from 1 (not at all) to 10 (entirely): {criterion}\nAnswer with a number only.",
    )


def ranking_question(prompt: Prompt, responses: Sequence[str], criterion: str = BETTER) -> Chat:
    """Ask for the order of K responses; the answer is their letters, the best first.

    Args:
        prompt: what all answer.
        responses: K texts, called A, B and so on; at most 26.
        criterion: a sentence that is true of a good response.

    Returns:
        The question.

    Raises:
        ValueError: when there are more responses than letters.
    """
    if len(responses) > len(LETTERS):
        raise ValueError(f"a ranking shows at most {len(LETTERS)} responses, found {len(responses)}: compare pairs")
    letters = ", ".join(LETTERS[: len(responses)])
    return _asked(
        prompt,
        _shown(responses),
        f"Put the responses in order, the one first of which this is most true: {criterion}\n"
        f"Answer with the letters {letters} in that order only, with > between them.",
    )


def _asked(prompt: Prompt, shown: str, question: str) -> Chat:
    return (Message("user", f"Prompt: {prompt_text(prompt)}\n\n{shown}\n\n{question}"),)


def _shown(responses: Sequence[str]) -> str:
    return "\n\n".join(f"Response {letter}: {text}" for letter, text in zip(LETTERS, responses, strict=False))
