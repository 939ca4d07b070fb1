"""The sampling engine: prefill once, then windows of decode steps, the host looking only between windows.

The weights are laid out for decoding once a call. Every row has its own length in the cache. The K samples of a prompt
share its prefill. In the ``Rollout`` prompts stand on the left of one column, responses on its right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rlhf_jax import processes
from rlhf_jax.rollout import slots
from rlhf_jax.rollout.programs import State, make_programs
from rlhf_jax.rollout.sampling import SamplingConfig, occurrences, response_keys
from rlhf_jax.rollout.slots import Cost
from rlhf_jax.rollout.stopping import StopTable
from rlhf_jax.types import Array, Model, Params, Rollout

PromptIds = np.ndarray | list[int]  # token ids

# Tokens of a prompt and its response where a model does not say how many it reads: programs for any number would be
# compiled until the memory is full. A model that reads more says so with ``ModelConfig.max_length``.
ROOM = 2**13


class Laid(NamedTuple):
    """Weights laid out for decoding by ``Engine.lay_out``, for several calls with the same weights."""

    weights: Params


class Engine:
    """Sampler of one model, which holds the compiled programs so that repeated calls reuse them.

    Args:
        model: the policy as pure functions.
        config: how to draw.
        pad_id: written after a response has ended; never looked at.
        eos_id: ends a response and counts as its last token; where there are several such ids, all of them.
        logprob_temperature: the temperature of the log-probabilities in a ``Rollout``, above 0. By default they are
            those of the distribution that is sampled, ``softmax(logits / config.temperature)`` before any truncation
            (at temperature 0, those of temperature 1). 1 gives those of the policy itself, however it is sampled.
        stop: what ends a response as ``eos_id`` does, made by ``stop_at_text`` or ``stop_at_tokens``: the tokens up to
            the one that completes it are kept and count, and ``finished`` is True. All of it must be sampled; a
            prompt's end is no part of it. It is not made of ``config.stop``, as an engine knows tokens but no text.

    Raises:
        ValueError: if ``logprob_temperature`` is not above 0.

    Example:
        >>> from rlhf_jax import models
        >>> sizes = {"d_model": 8, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16}
        >>> model = models.build(models.ModelConfig(vocab_size=16, **sizes))
        >>> engine = Engine(model, SamplingConfig(max_new_tokens=4, window=2), pad_id=0, eos_id=2)
        >>> rollout = engine(model.init(jax.random.key(0)), [[1, 5], [1, 5, 6]], key=jax.random.key(1))
        >>> rollout.tokens.shape[:2]
        (2, 1)
    """

    def __init__(
        self,
        model: Model,
        config: SamplingConfig,
        *,
        pad_id: int,
        eos_id: int | Sequence[int],
        logprob_temperature: float | None = None,
        stop: StopTable | None = None,
    ):
        if logprob_temperature is not None and not logprob_temperature > 0:
            raise ValueError(
                f"logprob_temperature must be above 0, or None for the sampling temperature, found "
                f"{logprob_temperature}"
            )
        self.config = config
        self.pad_id = pad_id
        self.unsaid = not model.max_length
        self.room = model.max_length or ROOM  # tokens of a prompt and its response together
        self.cost = Cost(0, 0)  # what the last call took
        ends = (eos_id,) if isinstance(eos_id, int | np.integer) else tuple(eos_id)
        if config.int8 != "none":
            model = model.in_int8(cache=config.int8 == "weights_and_cache")
        self.programs = make_programs(
            model, config, pad_id=pad_id, end_ids=ends, stop=stop, logprob_temperature=logprob_temperature
        )

    def lay_out(self, params: Params | Laid, sharding: jax.sharding.Sharding | None = None) -> Laid:
        """Lay weights out for decoding; several calls with the result in place of the weights pay for it once."""
        return params if isinstance(params, Laid) else Laid(self.programs.lay_out(params, sharding=sharding))

    def __call__(
        self,
        params: Params | Laid,
        prompts: Sequence[PromptIds],
        *,
        key: Array,
        step: int = 0,
        prompt_ids: np.ndarray | None = None,
        occurrence: np.ndarray | None = None,
        samples: int = 1,
        bucket: int = 8,
        sharding: jax.sharding.Sharding | None = None,
    ) -> Rollout:
        """Sample ``samples`` responses to each prompt.

        Args:
            params: the policy's, or what ``lay_out`` made of them.
            prompts: B lists of token ids, each at least one long.
            key: the run's sampling key.
            step: folded into the key, so that the same prompt is sampled anew at another step.
            prompt_ids: int32 [B], what names a prompt in its key; its index in the list by default.
            occurrence: int32 [B], how often each prompt is asked at this step before, so that one which is asked twice
                is answered twice; counted in the list by default, which a part of a longer list is too short for.
            samples: K.
            bucket: prompts are padded to a multiple of this many columns.
            sharding: where rows go; their number, and that of the slots, must be a multiple of the parts that it cuts
                rows into.

        Returns:
            ``Rollout`` of B prompts with K responses. ``Engine.cost`` says what it cost.

        Raises:
            ValueError: on an empty list, an empty prompt, one that is too long for the model, or no ``samples``.
            TypeError: on what is no list of token ids.
        """
        self.check(prompts, prompt_ids)
        if samples < 1:
            raise ValueError(f"samples must be at least 1, found {samples}")
        ids = np.arange(len(prompts)) if prompt_ids is None else np.asarray(prompt_ids)
        again = occurrences(ids) if occurrence is None else np.asarray(occurrence)
        width = -(-max(len(p) for p in prompts) // bucket) * bucket
        tokens, lengths = _right_pad(prompts, width, self.pad_id)
        keys = response_keys(
            key,
            step,
            jnp.asarray(np.repeat(ids, samples), jnp.int32),
            jnp.asarray(np.tile(np.arange(samples), len(ids))),
            jnp.asarray(np.repeat(again, samples), jnp.int32),
        )
        laid = self.lay_out(params, sharding).weights
        if sharding is not None:
            tokens, lengths = (processes.put(x, sharding) for x in (tokens, lengths))
        found: tuple[Any, ...]
        if self.config.slots:
            found, self.cost = slots.run(
                self.programs,
                laid,
                prompts,
                keys,
                slots=self.config.slots,
                samples=samples,
                width=width,
                room=self.config.max_new_tokens,
                pad_id=self.pad_id,
                sharding=sharding,
            )
            found = found if sharding is None else processes.put(found, sharding)
        else:
            keys = keys if sharding is None else processes.put(keys, sharding)
            last = self._sampled(laid, tokens, lengths, keys, samples, sharding)
            found = (last.tokens, last.logprobs, last.written, last.finished)
            self.cost = Cost(int(jnp.sum(last.written)), len(prompts) * samples * (1 + int(last.steps)))
        return as_rollout(jnp.asarray(tokens), jnp.asarray(lengths), *found, samples)

    def stream(self, params: Params | Laid, prompt: PromptIds, *, key: Array, bucket: int = 32) -> Iterator[int]:
        """Sample one response, token by token as the windows give them (``SamplingConfig.window`` at a time).

        Args:
            params: the policy's, or what ``lay_out`` made of them.
            prompt: token ids, at least one.
            key: the sampling key.
            bucket: the prompt is padded to a multiple of this many columns, so that one program serves a chat's turns.

        Yields:
            Token ids, the end-of-sequence token included.

        Raises:
            ValueError: when the prompt is empty or too long for the model.
        """
        self.check([prompt])
        tokens, lengths = _right_pad([prompt], -(-len(prompt) // bucket) * bucket, self.pad_id)
        keys = response_keys(key, 0, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
        given = 0
        for state in self._states(self.lay_out(params).weights, tokens, lengths, keys):
            # Read before the next window: it is given this state to reuse.
            drawn = np.asarray(state.tokens)[0, : int(state.written[0])].tolist()
            yield from drawn[given:]
            given = len(drawn)

    def _started(
        self,
        laid: Params,
        prompts: Any,
        lengths: Any,
        keys: Array,
        samples: int = 1,
        sharding: jax.sharding.Sharding | None = None,
    ) -> State:
        """The state after the first token."""
        columns = prompts.shape[1] + self.config.max_new_tokens
        return self.programs.start(laid, prompts, lengths, keys, samples=samples, columns=columns, sharding=sharding)

    def _states(self, laid: Params, prompts: Any, lengths: Any, keys: Array) -> Iterator[State]:
        """The state after the first token and after each window; each is used up by the next."""
        state = self._started(laid, prompts, lengths, keys)
        yield state
        while not bool(jnp.all(state.done)):
            state = self.programs.window(laid, state, 0, sharding=None)
            yield state

    def _sampled(
        self,
        laid: Params,
        prompts: Any,
        lengths: Any,
        keys: Array,
        samples: int,
        sharding: jax.sharding.Sharding | None,
    ) -> State:
        """The last state. The devices are at the next window while the host asks whether rows were left before it."""
        state = self._started(laid, prompts, lengths, keys, samples, sharding)
        for _ in range(-(-(self.config.max_new_tokens - 1) // self.config.window)):
            ended = jnp.all(state.done)
            state = self.programs.window(laid, state, 0, sharding=sharding)  # does nothing where all had ended
            if bool(ended):
                break
        return state

    def check(self, prompts: Sequence[PromptIds], prompt_ids: Sequence[int] | np.ndarray | None = None) -> None:
        """Raise a ValueError on an empty list, an empty prompt, or one that leaves no room for the longest response.

        What is no list of token ids is a TypeError.

        Args:
            prompts: lists of token ids.
            prompt_ids: what names a prompt in the message; its index in the list by default.
        """
        if isinstance(prompts, str) or any(isinstance(p, str) or np.ndim(p) != 1 for p in prompts):
            raise TypeError("prompts must be lists of token ids, one for each prompt: encode texts first")
        if not len(prompts) or any(len(p) == 0 for p in prompts):
            raise ValueError("every prompt needs at least one token (the begin-of-sequence token, say)")
        new, unsaid = self.config.max_new_tokens, " at most, as its config names no max_length" if self.unsaid else ""
        for i, prompt in enumerate(prompts):
            if np.asarray(prompt).dtype.kind not in "iu":
                raise TypeError(f"prompt {i} holds {np.asarray(prompt).dtype}: expected token ids, whole numbers")
            if self.room < len(prompt) + new:
                raise ValueError(
                    f"prompt {i if prompt_ids is None else prompt_ids[i]} has {len(prompt)} tokens, and the model "
                    f"reads {self.room}{unsaid}, which leaves {max(self.room - new, 0)} beside a response of "
                    f"max_new_tokens {new}: shorten it, or lower max_new_tokens"
                )


def _known_mesh(sharding: jax.sharding.Sharding | None) -> AbstractContextManager[Any]:
    """Let programs know the mesh while they are traced: a model divides kernels among its devices."""
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else nullcontext()


def _right_pad(prompts: Sequence[PromptIds], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)


@functools.partial(jax.jit, static_argnames=("samples",))
def as_rollout(
    prompts: Array, lengths: Array, tokens: Array, logprobs: Array, written: Array, finished: Array, samples: int
) -> Rollout:
    """Join prompts [B, P], moved to the right, and responses [B*K, R] into groups [B, K, P + R]."""
    width = prompts.shape[1]
    prompts = jax.vmap(jnp.roll)(prompts, width - lengths)
    real = jnp.arange(width)[None] >= width - lengths[:, None]
    prompts, real = (jnp.repeat(x, samples, axis=0) for x in (prompts, real))
    group = lambda x: x.reshape(-1, samples, *x.shape[1:])  # noqa: E731
    counted = jnp.arange(tokens.shape[1])[None] < written[:, None]
    segment = jnp.concatenate([real, counted], axis=-1)
    return Rollout(
        tokens=group(jnp.concatenate([prompts, tokens], axis=-1)),
        mask=group(jnp.concatenate([jnp.zeros_like(real), counted], axis=-1)),
        segment_ids=group(segment.astype(jnp.int32)),
        positions=group(jnp.maximum(jnp.cumsum(segment, axis=-1) - 1, 0)),
        logprobs=group(jnp.concatenate([jnp.zeros(real.shape, jnp.float32), logprobs], axis=-1)),
        finished=group(finished),
    )
