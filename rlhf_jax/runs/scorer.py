"""The reward model of a run, and scoring text with it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models, rewards
from rlhf_jax.data import Tokenizer, layouts
from rlhf_jax.data.encode import encode
from rlhf_jax.data.packing import Example, pad
from rlhf_jax.data.rows import Comparison, Demonstration, Prompt
from rlhf_jax.models.ensemble import member_scores
from rlhf_jax.rewards import EnsembleConfig
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.arguments import checked_count, checked_prompts, checked_texts
from rlhf_jax.runs.by_length import BATCH, at_once, by_length
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.reward_models import load_reward_model
from rlhf_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trained reward model that scores responses; the members of an ensemble are combined."""

    config: models.ModelConfig
    params: Params
    tokenizer: Tokenizer
    ensemble: EnsembleConfig = EnsembleConfig()

    @classmethod
    def load(cls, run: Path | str, ensemble: EnsembleConfig | None = None) -> Scorer:
        """Load a reward model; an ensemble's members are combined as told, by their mean by default.

        Args:
            run: a run folder, or a checkpoint that is a sequence classifier with one label.
            ensemble: how the members of an ensemble are combined.

        Raises:
            RunError: when there is no finished reward model, or the checkpoint is a language model.
        """
        config, params, tokenizer = load_reward_model(run)
        return cls(config, {"reward": params}, tokenizer, ensemble or EnsembleConfig())

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Score responses, float32 [n], so that a reward model is a reward like any other callable.

        Args:
            prompts: texts, or chats up to the turn that is answered.
            responses: a text for each.

        Raises:
            RunError: when a prompt and its response are longer than what the model reads.
            DataError: when a chat template refuses a prompt.
            TypeError: when either is no list of what it should hold.
            ValueError: when there are more of one than of the other.
        """
        asked = checked_prompts(prompts)
        pairs = zip(asked, checked_texts(responses, "responses", len(asked)), strict=True)
        return self.score_tokens([encode(Demonstration(p, r, ""), self.tokenizer).tokens[0] for p, r in pairs])

    def templated(self) -> Scorer:
        """Return the same reward model for prompts to which the chat template has been applied already."""
        return dataclasses.replace(self, tokenizer=self.tokenizer.templated())

    @functools.cached_property
    def _run(self) -> Callable[..., Any]:
        """The compiled program, made once: a scorer that is PPO's reward is called at every iteration."""
        model = models.build(self.config)
        return jax.jit(lambda params, batch: member_scores(model, params["reward"], batch))

    def score_tokens(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Score token sequences (prompt, response and end-of-sequence token), float32 [n].

        Raises:
            RunError: when one is longer than what the model reads.
        """
        # A copy: what comes from the device is read-only, and whoever asked for scores may change them.
        return np.array(rewards.combine(jnp.asarray(self.score_members(sequences)), self.ensemble))

    def score_members(
        self, sequences: Sequence[np.ndarray], tell: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """Score token sequences with every member of an ensemble, float32 [M, n]; M is 1 for a single model.

        Args:
            sequences: prompt, response and end-of-sequence token each.
            tell: told how many are scored, whenever some are.

        Raises:
            RunError: when one is longer than what the model reads.
        """
        for i, sequence in enumerate(sequences):
            if len(sequence) > (readable := self.config.max_length or ROOM):
                unsaid = "" if self.config.max_length else " at most, as its config names no max_length"
                raise RunError(
                    f"prompt and response {i} have {len(sequence)} tokens: the reward model reads {readable}{unsaid}; "
                    "shorten it"
                )
        scores = np.zeros((max(1, models.members(self.params["reward"])), len(sequences)), np.float32)
        lengths, done = [len(s) for s in sequences], 0
        size = at_once(lengths)
        for rows, length in by_length(lengths, size):
            examples = [Example((sequences[i],), (1,)) for i in rows]
            batch = pad(examples, length=length, pad_id=self.tokenizer.pad_id, groups=size)
            scores[:, rows] = np.asarray(self._run(self.params, batch))[:, : len(rows), 0]
            done += len(rows)
            tell(done)
        return scores


def scored(rows: Iterable[dict[str, Any]], scorer: Scorer, *, as_text: bool = False) -> Iterator[dict[str, Any]]:
    """Add its score to every sampled row, as ``score``.

    Args:
        rows: from ``Policy.sample``.
        scorer: the reward model.
        as_text: score the response's text, encoded anew, where the reward model reads other tokens than the policy
            writes; otherwise the very tokens that were sampled.

    Yields:
        The rows, in order.
    """
    every = iter(rows)
    while drawn := list(itertools.islice(every, BATCH)):
        scores = _scores_of_samples(drawn, scorer, as_text)
        yield from ({**row, "score": float(score)} for row, score in zip(drawn, scores, strict=True))


def _scores_of_samples(rows: Sequence[dict[str, Any]], scorer: Scorer, as_text: bool) -> np.ndarray:
    if as_text:
        return scorer([row["prompt"] for row in rows], [row["response"] for row in rows])
    # The tokens that were sampled, not their text encoded again: a response without an end stays without one.
    prompts = [scorer.tokenizer.encode_prompt(row["prompt"]) for row in rows]
    return scorer.score_tokens([np.append(p, row["tokens"]) for p, row in zip(prompts, rows, strict=True)])


def best_of(
    rows: Iterable[dict[str, Any]], scorer: Scorer, n: int, *, as_text: bool = False
) -> Iterator[dict[str, Any]]:
    """Keep the row with the highest score of every n sampled for one prompt, and add the score to it as ``score``.

    Args:
        rows: from ``Policy.sample``, a multiple of n for each prompt, in order.
        scorer: the reward model that chooses.
        n: how many rows were drawn for each that is kept. The policy that choosing makes has a KL of
            ``log n - (n - 1) / n`` (``losses.best_of_n_kl``) to the policy that sampled.
        as_text: as for ``scored``.

    Yields:
        One row of every n.

    Raises:
        ValueError: if n is below 1.
    """
    n = checked_count(n, "n")
    every = iter(rows)
    while drawn := list(itertools.islice(every, n)):
        scores = _scores_of_samples(drawn, scorer, as_text)
        best = int(np.argmax(scores))
        yield {**drawn[best], "score": float(scores[best])}


class Scorable(NamedTuple):
    """A row, and its responses by the names that their scores get."""

    row: Mapping[str, Any]
    responses: dict[str, Demonstration]


def scorable(row: Mapping[str, Any], where: str) -> Scorable:
    """Read a row that can be scored, in any layout of ``rlhf_jax.data.layouts``.

    Args:
        row: a prompt with one response, or a comparison of two.
        where: where the row stands.

    Returns:
        One response, whose score is ``score``; or two, the one that people prefer as ``chosen_score`` (the first where
        votes are even) and the other as ``rejected_score``; in a ranking ``score_1``, ``score_2`` and so on, in the
        order of its responses. In a chat the response is the assistant's last turn.

    Raises:
        DataError: when no layout fits, the row has no response to a prompt, or a field is bad.

    Example:
        >>> row = {"prompt": "Hi.", "a": "No.", "b": "Hello!", "preference": "b"}
        >>> {name: one.response for name, one in scorable(row, "pairs.jsonl:1").responses.items()}
        {'chosen_score': 'Hello!', 'rejected_score': 'No.'}
    """
    found = layouts.answered(row, where)
    if isinstance(found, Comparison):
        two = len(found.responses) == 2
        names = (
            ("chosen_score", "rejected_score") if two else [f"score_{i}" for i in range(1, len(found.responses) + 1)]
        )
        said = dict(zip(names, layouts.preferred_first(found) if two else found.responses, strict=True))
    else:
        said = {"score": found.response}
    return Scorable(row, {name: Demonstration(found.prompt, text, where) for name, text in said.items()})


def score_rows(scorer: Scorer, rows: Sequence[Scorable]) -> list[dict[str, Any]]:
    """Add the reward model's scores to rows.

    Args:
        scorer: the reward model.
        rows: from ``scorable``.

    Returns:
        The rows as they were, with ``score``, with ``chosen_score`` and ``rejected_score``, or with ``score_1`` and on.

    Raises:
        DataError: when a chat template refuses a row.
    """
    asked = [(i, name, response) for i, row in enumerate(rows) for name, response in row.responses.items()]
    scores = scorer.score_tokens([encode(response, scorer.tokenizer).tokens[0] for _, _, response in asked])
    scored = [dict(row.row) for row in rows]
    for (i, name, _), score in zip(asked, scores.tolist(), strict=True):
        scored[i][name] = score
    return scored
