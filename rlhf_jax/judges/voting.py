"""Votes of a model that is asked: by pairs in both orders, by scores, or by the order of all K responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.rows import Prompt
from rlhf_jax.feedback.judges import Verdicts, of_both_orders
from rlhf_jax.feedback.rubrics import Criterion
from rlhf_jax.judges.asking import BETTER, LETTERS, SCORES, Asked, pair_question, ranking_question, score_question
from rlhf_jax.judges.config import How

Criteria = Callable[[Prompt], Sequence[Criterion]]  # by what the responses to a prompt are compared


def always(*criteria: Criterion) -> Criteria:
    """Ask about the same criteria whatever the prompt is.

    Args:
        criteria: at least one.

    Returns:
        The function of a prompt that ``AskingJudge`` takes.
    """
    return lambda prompt: criteria


@dataclasses.dataclass(frozen=True)
class AskingJudge:
    """A judge that asks a model.

    With several criteria each is asked about alone, and votes and scores are the weighted means over them; where one of
    the answers is missing there is no vote, as a mean of the others would be by another rubric.

    Args:
        model: what is asked.
        how: ``pairs``, each pair in both orders; ``scores``, a score for each response, where the vote is the
            probability that a score drawn for i is above one drawn for j, an equal one counted half; ``ranking``, all K
            in one question, asked K times so that each response stands in each place once.
        criteria: by what the responses to a prompt are compared.

    Example:
        >>> class Kind:  # a model that says of every pair that A is better by three to one
        ...     cost = 0.0
        ...
        ...     def choose(self, questions, answers):
        ...         return [[0.75, 0.25] for _ in questions]
        ...
        ...     def order(self, questions, count):
        ...         raise NotImplementedError
        >>> AskingJudge(Kind())(["Hi."], [["Hello!", "No."]]).votes.tolist()  # both orders: nothing is left of it
        [[[0.0, 0.5], [0.5, 0.0]]]
    """

    model: Asked
    how: How = "pairs"
    criteria: Criteria = always(BETTER)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]], /) -> Verdicts:
        """Vote among K responses to each of B prompts.

        Args:
            prompts: B texts, or chats up to the turn that is answered.
            responses: B lists of K texts. With ``scores`` K may be 1, which gives a score and no vote.

        Returns:
            The verdicts: with ``pairs`` what was said in each order too, with ``scores`` the expected scores, 1 to 10.
        """
        k = len(responses[0]) if responses else 2
        asked = [
            _Asked(row, prompt, tuple(responses[row]), criterion)
            for row, prompt in enumerate(prompts)
            for criterion in self.criteria(prompt)
        ]
        votes, scores = np.zeros((len(asked), k, k)), np.zeros((len(asked), k))
        by: Callable[..., tuple[np.ndarray, Any]] = {
            "pairs": self._pairs,
            "scores": self._scores,
            "ranking": self._ranking,
        }[self.how]
        for answers in dict.fromkeys(one.criterion.answers for one in asked):
            group = [i for i, one in enumerate(asked) if one.criterion.answers == answers]
            votes[group], scores[group] = by([asked[i] for i in group], answers, k)
        votes, scores = (_mean(x, asked, len(prompts)) for x in (votes, scores))
        if self.how == "pairs":
            return Verdicts(of_both_orders(votes), shown=votes)
        return Verdicts(votes, scores=scores if self.how == "scores" else None)

    def _pairs(self, asked: Sequence[_Asked], answers: tuple[str, ...], k: int) -> tuple[np.ndarray, Any]:
        """Ask about every pair in both orders: the share for the one that is shown first."""
        places = [(i, j) for i in range(k) for j in range(k) if i != j]
        questions = [pair_question(a.prompt, a.texts[i], a.texts[j], a.criterion) for a in asked for i, j in places]
        said = np.asarray(self.model.choose(questions, answers or LETTERS[:2]), np.float64)
        shown = np.zeros((len(asked), k, k))
        shown[:, [i for i, _ in places], [j for _, j in places]] = said[:, 0].reshape(len(asked), len(places))
        return shown, np.nan

    def _scores(self, asked: Sequence[_Asked], answers: tuple[str, ...], k: int) -> tuple[np.ndarray, Any]:
        """Ask for a score of each response."""
        questions = [score_question(a.prompt, text, a.criterion) for a in asked for text in a.texts]
        values = np.linspace(SCORES[0], SCORES[-1], len(answers)) if answers else np.asarray(SCORES, np.float64)
        said = self.model.choose(questions, answers or [str(score) for score in SCORES])
        p = np.asarray(said, np.float64).reshape(len(asked), k, len(values))
        above = np.tril(np.ones((len(values), len(values))), -1) + 0.5 * np.eye(len(values))
        votes = np.einsum("nis,st,njt->nij", p, above, p)
        votes[:, range(k), range(k)] = 0.0
        return votes, p @ values

    def _ranking(self, asked: Sequence[_Asked], answers: tuple[str, ...], k: int) -> tuple[np.ndarray, Any]:
        """Ask for the order of all responses, each of which comes to stand in each place once."""
        orders = np.asarray([[(place + turn) % k for place in range(k)] for turn in range(k)])
        questions = [
            ranking_question(a.prompt, [a.texts[i] for i in order], a.criterion) for a in asked for order in orders
        ]
        said = np.asarray(self.model.order(questions, k), np.float64).reshape(len(asked), k, k, k)
        votes = np.zeros((len(asked), k, k))
        for turn, order in enumerate(orders):
            votes[:, order[:, None], order] += said[:, turn] / k
        votes[:, range(k), range(k)] = 0.0
        return votes, np.nan


class _Asked(NamedTuple):
    """One criterion of one prompt, which all its responses are compared by."""

    row: int
    prompt: Prompt
    texts: tuple[str, ...]
    criterion: Criterion


def _mean(values: np.ndarray, asked: Sequence[_Asked], rows: int) -> np.ndarray:
    """The weighted mean over the criteria of each row, float32 [rows, ...]."""
    total, weight = np.zeros((rows, *values.shape[1:])), np.zeros((rows, *[1] * (values.ndim - 1)))
    for value, one in zip(values, asked, strict=True):
        total[one.row] += value * one.criterion.weight
        weight[one.row] += one.criterion.weight
    return (total / weight).astype(np.float32)
