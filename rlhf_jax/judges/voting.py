"""Votes of a model that is asked: by pairs in both orders, by scores, or by the order of all K responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.rows import Chat, Prompt
from rlhf_jax.feedback.judges import Verdicts, of_both_orders
from rlhf_jax.feedback.rubrics import Criterion
from rlhf_jax.judges.asking import BETTER, SCORES, Asked, pair_question, ranking_question, score_question
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
    criteria: Criteria = always(Criterion(BETTER))

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
            _Asked(row, prompt, tuple(responses[row]), c.text, c.weight)
            for row, prompt in enumerate(prompts)
            for c in self.criteria(prompt)
        ]
        by = {"pairs": self._pairs, "scores": self._scores, "ranking": self._ranking}[self.how]
        votes, beside = by(asked, k)
        weights, rows = np.asarray([a.weight for a in asked]), np.asarray([a.row for a in asked], int)

        def mean(values: np.ndarray) -> np.ndarray:
            total, weight = np.zeros((len(prompts), *values.shape[1:])), np.zeros(len(prompts))
            np.add.at(total, rows, values * weights.reshape(-1, *[1] * (values.ndim - 1)))
            np.add.at(weight, rows, weights)
            return (total / weight.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)

        if self.how == "pairs":
            shown = mean(beside)
            return Verdicts(of_both_orders(shown), shown=shown)
        if self.how == "scores":
            return Verdicts(mean(votes), scores=mean(beside))
        return Verdicts(mean(votes))

    def _pairs(self, asked: Sequence[_Asked], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ask about every pair in both orders."""
        places = [(i, j) for i in range(k) for j in range(k) if i != j]
        questions = [
            pair_question(a.prompt, a.responses[i], a.responses[j], a.criterion) for a in asked for i, j in places
        ]
        said = np.asarray(self.model.choose(questions, ("A", "B")), np.float64).reshape(len(asked), len(places), 2)
        shown = np.zeros((len(asked), k, k))
        for place, (i, j) in enumerate(places):
            shown[:, i, j] = said[:, place, 0]
        return shown, shown

    def _scores(self, asked: Sequence[_Asked], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ask for a score of each response."""
        questions = [score_question(a.prompt, text, a.criterion) for a in asked for text in a.responses]
        said = self.model.choose(questions, tuple(map(str, SCORES)))
        p = np.asarray(said, np.float64).reshape(len(asked), k, len(SCORES))
        above = np.tril(np.ones((len(SCORES), len(SCORES))), -1) + 0.5 * np.eye(len(SCORES))
        votes = np.einsum("nis,st,njt->nij", p, above, p)
        votes[:, range(k), range(k)] = 0.0
        return votes, p @ np.asarray(SCORES, np.float64)

    def _ranking(self, asked: Sequence[_Asked], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Ask for the order of all responses, each of which comes to stand in each place once."""
        turned = [[(place + turn) % k for place in range(k)] for turn in range(k)]
        questions: list[Chat] = [
            ranking_question(a.prompt, [a.responses[i] for i in order], a.criterion) for a in asked for order in turned
        ]
        said = np.asarray(self.model.order(questions, k), np.float64).reshape(len(asked), k, k, k)
        votes = np.zeros((len(asked), k, k))
        for turn, order in enumerate(turned):
            votes[:, np.asarray(order)[:, None], np.asarray(order)] += said[:, turn] / k
        votes[:, range(k), range(k)] = 0.0
        return votes, votes


class _Asked(NamedTuple):
    """One criterion of one prompt, which all its responses are compared by."""

    row: int
    prompt: Prompt
    responses: tuple[str, ...]
    criterion: str
    weight: float
