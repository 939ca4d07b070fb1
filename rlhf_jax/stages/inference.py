"""Using what a run made: sample from its policy, score text with its reward model."""

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

from rlhf_jax import models, rewards, rollout
from rlhf_jax.data import Tokenizer, layouts
from rlhf_jax.data.encode import encode
from rlhf_jax.data.packing import Example, pad
from rlhf_jax.data.rows import Comparison, Demonstration, Prompt
from rlhf_jax.models.ensemble import member_scores
from rlhf_jax.rewards import EnsembleConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.stages.loading import RunError, check_length, first_finished, load_stage
from rlhf_jax.stages.pretrained import is_checkpoint, load_checkpoint
from rlhf_jax.types import Params

POLICY_STAGES = ("ppo", "group", "preference", "sft")
BATCH = 64
SAMPLED = 256  # responses at once
BUCKET = 32


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy that answers prompts."""

    config: models.ModelConfig
    params: Params
    tokenizer: Tokenizer
    stage: str

    @classmethod
    def load(cls, run: Path | str, stage: str | None = None) -> Policy:
        """The policy of a run folder: PPO's where there is one, else the group stage's, the preference
        stage's, the SFT policy; or that of the stage that is named. Or a pretrained checkpoint.

        Raises:
            RunError: when the folder holds no finished policy.
        """
        if stage is not None and stage not in POLICY_STAGES:
            raise RunError(f"stage {stage!r} has no policy: choose one of {', '.join(POLICY_STAGES)}")
        if stage is None and is_checkpoint(run):
            config, params, tokenizer = load_checkpoint(run)
            return cls(config, params, tokenizer, "pretrained")
        name = stage or first_finished(run, POLICY_STAGES)
        params, config, tokenizer = load_stage(run, name)
        return cls(config, params["policy"], tokenizer, name)

    def sample(
        self, prompts: Sequence[Prompt], *, n: int = 1, sampling: SamplingConfig | None = None, seed: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Sample ``n`` responses to each prompt.

        Args:
            prompts: texts, or chats up to the turn that is to be answered.
            n: responses to each.
            sampling: temperature 1 and 32 tokens by default.
            seed: the same seed and prompt list give the same responses.

        Yields:
            A row a response, in the order of the prompts: ``prompt``, ``response``, ``tokens`` (ids of the response,
            the end-of-sequence token included) and ``logprob`` (nats, of the whole response, under the policy).

        Raises:
            RunError: when a prompt and its response may be longer than what the model reads.
            DataError: when a chat template refuses a prompt.
        """
        engine = rollout.Engine(
            models.build(self.config),
            sampling or SamplingConfig(),
            pad_id=self.tokenizer.pad_id,
            eos_id=self.tokenizer.eos_id,
        )
        size = max(1, SAMPLED // n)
        encoded = [self.tokenizer.encode_prompt(prompt) for prompt in prompts]
        longest, asked = max(map(len, encoded), default=0), engine.config.max_new_tokens
        check_length(self.config, longest + asked, f"max_new_tokens {asked}, after a prompt of {longest} tokens,")
        for start in range(0, len(prompts), size):
            texts, ids = prompts[start : start + size], encoded[start : start + size]
            # The last batch is filled up, so that one compiled program serves all.
            filled = ids + [ids[-1]] * (size - len(ids)) if len(prompts) > size else ids
            sampled = engine(
                self.params,
                filled,
                key=jax.random.key(seed),
                prompt_ids=np.arange(start, start + len(filled)),
                samples=n,
                bucket=16,
            )
            logprobs = np.asarray(sampled.logprobs).sum(-1).reshape(-1)
            rows = zip(response_tokens(sampled), logprobs, strict=True)
            for i, (tokens, logprob) in enumerate(rows):
                if i // n >= len(texts):
                    break
                yield {
                    "prompt": texts[i // n],
                    "response": self.tokenizer.decode_response(tokens),
                    "tokens": tokens.tolist(),
                    "logprob": float(logprob),
                }


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trained reward model that scores responses; the members of an ensemble are combined."""

    config: models.ModelConfig
    params: Params
    tokenizer: Tokenizer
    ensemble: EnsembleConfig = EnsembleConfig()

    @classmethod
    def load(cls, run: Path | str, ensemble: EnsembleConfig | None = None) -> Scorer:
        """The reward model of a run folder, and how the members of an ensemble are combined (their mean by default).

        Raises:
            RunError: when the folder holds no finished reward model.
        """
        params, config, tokenizer = load_stage(run, "reward")
        return cls(config, params, tokenizer, ensemble or EnsembleConfig())

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores of responses, float32 [n]: this makes a reward model a reward like any other callable."""
        pairs = zip(prompts, responses, strict=True)
        return self.score_tokens([encode(Demonstration(p, r, ""), self.tokenizer).tokens[0] for p, r in pairs])

    @functools.cached_property
    def _run(self) -> Callable[..., Any]:
        """Compiled once: a scorer that is PPO's reward is called at every iteration."""
        model = models.build(self.config)
        return jax.jit(lambda params, batch: member_scores(model, params["reward"], batch))

    def score_tokens(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of token sequences (prompt, response and end-of-sequence token), float32 [n].

        Raises:
            RunError: when one is longer than what the model reads.
        """
        # A copy: what comes from the device is read-only, and whoever asked for scores may change them.
        return np.array(rewards.combine(jnp.asarray(self.score_members(sequences)), self.ensemble))

    def score_members(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """What every member of an ensemble says of token sequences, float32 [M, n]; M is 1 for a single model."""
        longest, readable = max(map(len, sequences), default=0), self.config.max_length
        if 0 < readable < longest:
            raise RunError(f"a prompt and response of {longest} tokens: the reward model reads {readable}; shorten it")
        scores = np.zeros((max(1, models.members(self.params["reward"])), len(sequences)), np.float32)
        # Sorted by length, sequences of a batch are alike and a few shapes serve all.
        order = np.argsort([len(s) for s in sequences], kind="stable")
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            length = -(-max(len(sequences[i]) for i in rows) // BUCKET) * BUCKET
            examples = [Example((sequences[i],), (1,)) for i in rows]
            batch = pad(examples, length=length, pad_id=self.tokenizer.pad_id, groups=BATCH)
            scores[:, rows] = np.asarray(self._run(self.params, batch))[:, : len(rows), 0]
        return scores


def best_of(rows: Iterable[dict[str, Any]], scorer: Scorer, n: int) -> Iterator[dict[str, Any]]:
    """Of every n sampled rows of one prompt the one with the highest score, which is added as ``score``.

    Args:
        rows: from ``Policy.sample``, a multiple of n for each prompt, in order.
        scorer: what chooses.
        n: how many are drawn for one that is kept. The policy this makes has a KL of log n - (n - 1) / n
            (``losses.best_of_n_kl``) to the one that sampled.
    """
    every = iter(rows)
    while drawn := list(itertools.islice(every, n)):
        # The tokens that were sampled, not their text encoded again: a response without an end stays without one.
        prompts = [scorer.tokenizer.encode_prompt(row["prompt"]) for row in drawn]
        scores = scorer.score_tokens([np.append(p, row["tokens"]) for p, row in zip(prompts, drawn, strict=True)])
        best = int(np.argmax(scores))
        yield {**drawn[best], "score": float(scores[best])}


class Scorable(NamedTuple):
    """A row and its responses, by the names that their scores get."""

    row: Mapping[str, Any]
    responses: dict[str, Demonstration]


def scorable(row: Mapping[str, Any], where: str) -> Scorable:
    """Reads a row that can be scored, in any layout of ``rlhf_jax.data.layouts``.

    Args:
        row: a prompt with one response, or a comparison of two.
        where: what to call the row in an error.

    Returns:
        One response, whose score is ``score``; of two the one that people prefer, ``chosen_score``, and the other,
        ``rejected_score``. Of a chat it is the assistant's last turn.

    Raises:
        DataError: when no layout fits, the row has no response to a prompt, or a field is bad.

    Example:
        >>> row = {"prompt": "Hi.", "a": "No.", "b": "Hello!", "preference": "b"}
        >>> {name: one.response for name, one in scorable(row, "pairs.jsonl:1").responses.items()}
        {'chosen_score': 'Hello!', 'rejected_score': 'No.'}
    """
    found = layouts.answered(row, where)
    if isinstance(found, Comparison):
        said = dict(zip(("chosen_score", "rejected_score"), layouts.preferred_first(found), strict=True))
    else:
        said = {"score": found.response}
    return Scorable(row, {name: Demonstration(found.prompt, text, where) for name, text in said.items()})


def score_rows(scorer: Scorer, rows: Sequence[Scorable]) -> list[dict[str, Any]]:
    """Rows with the reward model's scores added.

    Args:
        scorer: the reward model.
        rows: from ``scorable``.

    Returns:
        The rows as they were, with ``score``, or with ``chosen_score`` and ``rejected_score``.

    Raises:
        DataError: when a chat template refuses a row.
    """
    asked = [(i, name, response) for i, row in enumerate(rows) for name, response in row.responses.items()]
    scores = scorer.score_tokens([encode(response, scorer.tokenizer).tokens[0] for _, _, response in asked])
    scored = [dict(row.row) for row in rows]
    for (i, name, _), score in zip(asked, scores.tolist(), strict=True):
        scored[i][name] = score
    return scored
