"""What a model is asked: questions as chats, whoever answers them, and what can answer them.

A model on this machine and one behind an address are asked the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from rlhf_jax.data.rows import Message, Prompt, prompt_text
from rlhf_jax.feedback.rubrics import PLACES, Criterion

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCORES = tuple(range(1, 11))
BETTER = Criterion("The response answers the prompt well: it is correct, helpful and well written.")
"""What responses are compared by where nobody says by what."""

_PAIR = """Prompt: {prompt}

Response A: {first}

Response B: {second}

Of which response is this more true: {text}
Answer with A or B only."""
_SCORE = """Prompt: {prompt}

Response: {response}

How true is this, from 1 (not at all) to 10 (entirely): {text}
Answer with a number only."""
_RANKING = """Prompt: {prompt}

{responses}

Put the responses in order, the one first of which this is most true: {text}
Answer with the letters {letters} in that order only, with > between them."""


class Asked(Protocol):
    """A model that answers questions with one of a few words, or with an order."""

    @property
    def cost(self) -> float:
        """What all answers so far have cost; 0 where nothing is paid."""

    def choose(self, questions: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Answer each question with one of the same few words.

        Args:
            questions: n chats, up to the turn that answers; or texts, which the answer continues.
            answers: A words.

        Returns:
            float32 [n, A]: the share of each answer, which add up to 1; NaN in a row where there is no answer.
        """

    def order(self, questions: Sequence[Prompt], count: int) -> np.ndarray:
        """Put the responses of each question in order.

        Args:
            questions: n chats or texts, in which responses go by the first letters.
            count: how many responses each shows, K.

        Returns:
            float32 [n, K, K]: the share for the response at one place against that at another, in the order in which
            they were shown; NaN where there is no answer.
        """


def pair_question(prompt: Prompt, first: str, second: str, criterion: Criterion = BETTER) -> Prompt:
    """Ask which of two responses is better; the answer is A or B, or one of the criterion's own.

    Args:
        prompt: what both answer.
        first: the response that is called A.
        second: the one that is called B.
        criterion: by what they are compared.

    Returns:
        The question: a chat, or where the criterion is put as a completion, a text.

    Example:
        >>> print(pair_question("Hi.", "Hello!", "No.", Criterion("The response is kind."))[0].content)
        Prompt: Hi.
        <BLANKLINE>
        Response A: Hello!
        <BLANKLINE>
        Response B: No.
        <BLANKLINE>
        Of which response is this more true: The response is kind.
        Answer with A or B only.
    """
    return _asked(criterion, _PAIR, {"prompt": prompt_text(prompt), "first": first, "second": second})


def score_question(prompt: Prompt, response: str, criterion: Criterion = BETTER) -> Prompt:
    """Ask for a score of one response; the answer is a whole number from 1 to 10, or one of the criterion's own.

    Args:
        prompt: what the response answers.
        response: the response.
        criterion: by what it is judged.

    Returns:
        The question, as from ``pair_question``.

    Example:
        >>> tone = Criterion("It is positive.", completion="Text: {response}\\nSentiment:", answers=("bad", "good"))
        >>> score_question("Hi.", "Hello!", tone)
        'Text: Hello!\\nSentiment:'
    """
    return _asked(criterion, _SCORE, {"prompt": prompt_text(prompt), "response": response})


def ranking_question(prompt: Prompt, responses: Sequence[str], criterion: Criterion = BETTER) -> Prompt:
    """Ask for the order of K responses; the answer is their letters, the best first.

    Args:
        prompt: what all answer.
        responses: K texts, called A, B and so on; at most 26.
        criterion: by what they are compared.

    Returns:
        The question, as from ``pair_question``.

    Raises:
        ValueError: when there are more responses than letters.
    """
    if len(responses) > len(LETTERS):
        raise ValueError(f"a ranking shows at most {len(LETTERS)} responses, found {len(responses)}: compare pairs")
    shown = "\n\n".join(f"Response {letter}: {text}" for letter, text in zip(LETTERS, responses, strict=False))
    letters = ", ".join(LETTERS[: len(responses)])
    return _asked(criterion, _RANKING, {"prompt": prompt_text(prompt), "responses": shown, "letters": letters})


def _asked(criterion: Criterion, default: str, shown: Mapping[str, str]) -> Prompt:
    """Put texts in the places of a question, all at once: what stands in one of them is no place."""
    places = {**shown, "text": criterion.text}
    written = PLACES.sub(
        lambda place: places.get(place[1], place[0]), criterion.completion or criterion.question or default
    )
    return written if criterion.completion else (Message("user", written),)
