"""The policy of a run, and sampling from it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import models, rollout
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.rows import Prompt
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.runs.arguments import checked_count, checked_prompts
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import first_finished, load_stage
from rlhf_jax.runs.pretrained import load_checkpoint
from rlhf_jax.runs.resultless import warn_of_failure
from rlhf_jax.runs.sampling import make_engine
from rlhf_jax.runs.stage_path import policy_path
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.types import Params

SAMPLED = 256  # responses at once
SAMPLED_TOKENS = 2**18  # tokens of prompts and responses at once, where they are long


@dataclasses.dataclass(frozen=True)
class Policy:
    """A trained policy that answers prompts."""

    config: models.ModelConfig
    params: Params
    tokenizer: Tokenizer
    stage: str

    @classmethod
    def load(cls, run: Path | str, stage: str | None = None) -> Policy:
        """Load the policy of a run folder, or a pretrained checkpoint.

        Where no stage is named, it is PPO's policy if there is one, else the group stage's, the preference stage's or
        the SFT stage's.

        Args:
            run: a run folder, ``RUN:STAGE``, or a pretrained checkpoint.
            stage: the stage whose policy is meant, where ``run`` does not name it.

        Raises:
            RunError: when the folder holds no finished policy, or two stages are named.
        """
        if stage is not None and stage not in POLICY_STAGES:
            raise RunError(f"stage {stage!r} has no policy: choose one of {', '.join(POLICY_STAGES)}")
        at = policy_path(run, default=stage or first_finished(run, POLICY_STAGES))
        if not at.stage and stage is None:
            config, params, tokenizer = load_checkpoint(at.path)
            return cls(config, params, tokenizer, "pretrained")
        name = at.stage or stage or ""
        if stage not in (None, name):
            raise RunError(f"{run} names the {name} stage, and stage is {stage}: leave one of them out")
        params, config, tokenizer = load_stage(at.path, name)
        warn_of_failure(at.path, name)
        return cls(config, params["policy"], tokenizer, name)

    def sample(
        self, prompts: Sequence[Prompt], *, n: int = 1, sampling: SamplingConfig | None = None, seed: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Sample ``n`` responses to each prompt.

        Args:
            prompts: texts, or chats up to the turn that is to be answered.
            n: how many responses to draw for each prompt.
            sampling: temperature 1 and 32 tokens by default.
            seed: the same seed and prompt list give the same responses.

        Yields:
            One row a response, in the order of the prompts: ``prompt``, ``response`` (its text, without the stop string
            that ended it), ``tokens`` (ids, those of the end-of-sequence token or of a stop string included) and
            ``logprob`` (nats; the whole response under the policy itself, that is at temperature 1 and without
            truncation, however it was sampled).

        Raises:
            RunError: when a prompt and its response may be longer than what the model reads, or no tokens write a stop
                string.
            DataError: when a chat template refuses a prompt.
            TypeError: when ``prompts`` is no list of texts or chats, or ``n`` no whole number.
            ValueError: when ``n`` is below 1.
        """
        # Here and not when the first row is asked for, which may be never.
        asked, n = checked_prompts(prompts), checked_count(n, "n")
        if not asked:
            return iter(())
        engine = self._engine(sampling or SamplingConfig())
        encoded = [self.tokenizer.encode_prompt(prompt) for prompt in asked]
        try:
            engine.check(encoded)
        except ValueError as error:
            raise RunError(str(error)) from error
        return self._drawn(engine, asked, encoded, n, seed)

    def templated(self) -> Policy:
        """Return the same policy for prompts to which the chat template has been applied already."""
        return dataclasses.replace(self, tokenizer=self.tokenizer.templated())

    def _drawn(
        self, engine: rollout.Engine, prompts: list[Prompt], encoded: list[np.ndarray], n: int, seed: int
    ) -> Iterator[dict[str, Any]]:
        columns = max(map(len, encoded)) + engine.config.max_new_tokens
        size = max(1, min(SAMPLED, SAMPLED_TOKENS // columns) // n)
        laid = engine.lay_out(self.params)
        for start in range(0, len(prompts), size):
            texts, ids = prompts[start : start + size], encoded[start : start + size]
            # The last batch is filled up, so that one compiled program serves all.
            filled = ids + [ids[-1]] * (size - len(ids)) if len(prompts) > size else ids
            sampled = engine(
                laid,
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
                    "response": self.tokenizer.decode_response(tokens, engine.config.stop),
                    "tokens": tokens.tolist(),
                    "logprob": float(logprob),
                }

    def _engine(self, sampling: SamplingConfig) -> rollout.Engine:
        """The engine of a config, kept so that another call compiles nothing."""
        if sampling not in self._engines:
            model = models.build(self.config)
            self._engines[sampling] = make_engine(model, self.tokenizer, sampling, logprob_temperature=1.0)
        return self._engines[sampling]

    @functools.cached_property
    def _engines(self) -> dict[SamplingConfig, rollout.Engine]:
        return {}
