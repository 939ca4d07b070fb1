"""The sampling engine of a model and its tokenizer: stop strings, which are text, become a table of tokens."""

from __future__ import annotations

import dataclasses

from rlhf_jax import rollout
from rlhf_jax.data import Tokenizer
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.types import Model


def make_engine(
    model: Model, tokenizer: Tokenizer, sampling: SamplingConfig, *, logprob_temperature: float | None = None
) -> rollout.Engine:
    """Make the engine that samples a model's responses as a config asks for, and ends them where its checkpoint does.

    The stop strings of its ``config`` are those of the given one, and those that the tokenizer came with.

    Args:
        model: the policy as pure functions.
        tokenizer: the policy's.
        sampling: how to draw, and which texts end a response.
        logprob_temperature: see ``rollout.Engine``.

    Raises:
        RunError: if no tokens write a stop string.
    """
    if tokenizer.stops:
        sampling = dataclasses.replace(sampling, stop=tuple(dict.fromkeys([*sampling.stop, *tokenizer.stops])))
    try:
        stop = rollout.stop_at_text(sampling.stop, tokenizer.token_bytes) if sampling.stop else None
    except ValueError as error:
        raise RunError(f"sampling.stop: {error}") from error
    return rollout.Engine(
        model,
        sampling,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.end_ids,
        stop=stop,
        logprob_temperature=logprob_temperature,
    )
