"""What scores responses, to be evaluated: a reward model, or an ensemble of them, and a judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from rlhf_jax import rewards
from rlhf_jax.data import DataError, Tokenizer
from rlhf_jax.data.encode import encode
from rlhf_jax.data.rows import Demonstration, prompt_text
from rlhf_jax.rewards import TextReward
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.by_length import BATCH
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages.sources import spelled

Tell = Callable[[int], None]


class Scored(NamedTuple):
    """Scores of n responses."""

    scores: np.ndarray  # float32 [n]
    members: np.ndarray | None = None  # float32 [M, n], where an ensemble has several


class ResponseScorer(Protocol):
    """Anything that scores responses: a response is made ready first, so that a bad row shows before any is scored."""

    @property
    def what(self) -> str:
        """What tables and messages call it."""

    def remark(self, responses: Sequence[Demonstration]) -> str:
        """Say what is odd about the texts, for a warning; empty where nothing is."""

    def ready(self, response: Demonstration) -> Any:
        """Make a response ready to be scored.

        Raises:
            DataError: when it cannot be scored.
        """

    def score(self, ready: Sequence[Any], tell: Tell) -> Scored:
        """Score what was made ready, and tell how many are done."""


@dataclasses.dataclass(frozen=True)
class RewardModelScores:
    """Scores of a reward model, as ``rlhf score`` writes them; an ensemble's members are combined."""

    scorer: Scorer
    what: str
    templated: bool = False

    def remark(self, responses: Sequence[Demonstration]) -> str:
        """Say how many texts spell special tokens, as those do in which a chat template has been applied already."""
        return spelling(responses, self.scorer.tokenizer, self.templated)

    def ready(self, response: Demonstration) -> np.ndarray:
        """Encode a response with its prompt.

        Raises:
            DataError: when it is longer than what the model reads, or a chat template refuses it.
        """
        tokens = encode(response, self.scorer.tokenizer).tokens[0]
        check_length(len(tokens), self.scorer.config.max_length or ROOM, response.where)
        return tokens

    def score(self, ready: Sequence[np.ndarray], tell: Tell) -> Scored:
        """Score token sequences."""
        # All at once: whoever counts the output of `rlhf score` must find these very numbers.
        each = self.scorer.score_members(ready, tell)
        scores = np.array(rewards.combine(jnp.asarray(each), self.scorer.ensemble))
        return Scored(scores, each if len(each) > 1 else None)


@dataclasses.dataclass(frozen=True)
class JudgeScores:
    """Scores of a function of (prompts, responses), which reads texts as they are."""

    judge: TextReward
    what: str

    def remark(self, responses: Sequence[Demonstration]) -> str:
        """Return nothing: a function reads texts as they are."""
        return ""

    def ready(self, response: Demonstration) -> Demonstration:
        """Return the response as it is."""
        return response

    def score(self, ready: Sequence[Demonstration], tell: Tell) -> Scored:
        """Score responses, so many at once.

        Raises:
            ValueError: when the function does not give one finite number for each.
        """
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(ready), BATCH):
            part = ready[start : start + BATCH]
            asked, given = [prompt_text(one.prompt) for one in part], [one.response for one in part]
            scores.append(rewards.score_texts(self.judge, asked, given, called=self.what))
            tell(start + len(part))
        return Scored(np.concatenate(scores))


def spelling(responses: Sequence[Demonstration], tokenizer: Tokenizer, templated: bool) -> str:
    """Say how many texts spell special tokens, where nobody said that the chat template has been applied to them.

    Args:
        responses: the texts.
        tokenizer: the model's.
        templated: whether somebody did.
    """
    said = "" if templated else spelled(responses, tokenizer)
    return f"{said}, pass --templated" if said else ""


def check_length(found: int, readable: int, where: str) -> None:
    """Raise a DataError where a prompt and its response are longer than what a model reads.

    Args:
        found: their tokens.
        readable: the most that the model reads.
        where: where the row stands.
    """
    if found > readable:
        raise DataError(
            f"{where}: expected at most {readable} tokens, which the model reads, found {found}; shorten the row or "
            "pass --on-bad-row skip"
        )
