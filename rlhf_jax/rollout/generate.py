"""The sampling engine: prefill once, then windows of decode steps, the host looking only between windows.

The weights are laid out for decoding once a call. Every row has its own length in the cache. The K samples of a prompt
share its prefill. In the ``Rollout`` prompts stand on the left of one column, responses on its right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.rollout.sampling import SamplingConfig, response_keys, sample_token
from rlhf_jax.types import Array, Cache, Model, Params, Rollout

PromptIds = np.ndarray | list[int]  # token ids


class _State(NamedTuple):
    """What a decode window hands to the next; donated from one to the other."""

    tokens: Array  # int32 [N, R], pad where nothing was written
    logprobs: Array  # float32 [N, R]
    counted: Array  # bool [N, R]
    done: Array  # bool [N]
    finished: Array  # bool [N]
    cache: Cache
    last: Array  # int32 [N], the newest token
    step: Array  # int32 [], tokens written so far


class Engine:
    """Sampler of one model, which holds the compiled programs so that repeated calls reuse them.

    Args:
        model: the policy as pure functions.
        config: how to draw.
        pad_id: written after a response has ended; never looked at.
        eos_id: ends a response and counts as its last token.
        logprob_temperature: the temperature of the log-probabilities in a ``Rollout``, above 0. By default they are
            those of the distribution that is sampled, ``softmax(logits / config.temperature)`` before any truncation
            (at temperature 0, those of temperature 1). 1 gives those of the policy itself, however it is sampled.

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
        eos_id: int,
        logprob_temperature: float | None = None,
    ):
        if logprob_temperature is not None and not logprob_temperature > 0:
            raise ValueError(
                f"logprob_temperature must be above 0, or None for the sampling temperature, found "
                f"{logprob_temperature}"
            )
        self.config = config
        self.pad_id = pad_id
        draw = functools.partial(
            sample_token,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            logprob_temperature=logprob_temperature,
        )
        steps = config.max_new_tokens

        def write(state: _State, token: Array, logprob: Array) -> _State:
            """Put one drawn token into the state, unless its row has ended."""
            alive = ~state.done
            token = jnp.where(alive, token, pad_id)
            at = (jnp.int32(0), state.step)
            is_last = token == eos_id
            return state._replace(
                tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], at),
                logprobs=jax.lax.dynamic_update_slice(state.logprobs, jnp.where(alive, logprob, 0.0)[:, None], at),
                counted=jax.lax.dynamic_update_slice(state.counted, alive[:, None], at),
                finished=state.finished | (alive & is_last),
                done=state.done | is_last | (state.step + 1 >= steps),
                last=token,
                step=state.step + 1,
            )

        def start(laid: Params, prompts: Array, lengths: Array, keys: Array, samples: int, columns: int) -> _State:
            logits, filled = model.prefill(laid, prompts, lengths)
            repeat = functools.partial(jnp.repeat, repeats=samples, axis=0)
            logits, filled = repeat(logits), jax.tree.map(repeat, filled)
            n = logits.shape[0]
            empty = model.cache(n, columns)
            k, v = (
                jax.tree.map(lambda held, new: jax.lax.dynamic_update_slice(held, new, (0,) * held.ndim), *pair)
                for pair in ((empty.k, filled.k), (empty.v, filled.v))
            )
            state = _State(
                tokens=jnp.full((n, steps), pad_id, jnp.int32),
                logprobs=jnp.zeros((n, steps), jnp.float32),
                counted=jnp.zeros((n, steps), bool),
                done=jnp.zeros((n,), bool),
                finished=jnp.zeros((n,), bool),
                cache=Cache(k, v, filled.lengths),
                last=jnp.zeros((n,), jnp.int32),
                step=jnp.int32(0),
            )
            return write(state, *draw(keys, logits, state.step))

        def window(laid: Params, state: _State, keys: Array, count: Array) -> _State:
            def body(_: Array, s: _State) -> _State:
                logits, cache = model.decode(laid, s.last, s.cache)
                return write(s._replace(cache=cache), *draw(keys, logits, s.step))

            return jax.lax.fori_loop(0, count, body, state)

        self._lay_out = jax.jit(model.lay_out)
        self._start = jax.jit(start, static_argnames=("samples", "columns"))
        self._window = jax.jit(window, donate_argnames=("state",))

    def __call__(
        self,
        params: Params,
        prompts: Sequence[PromptIds],
        *,
        key: Array,
        step: int = 0,
        prompt_ids: np.ndarray | None = None,
        samples: int = 1,
        bucket: int = 8,
        sharding: jax.sharding.Sharding | None = None,
    ) -> Rollout:
        """Sample ``samples`` responses to each prompt.

        Args:
            params: the policy's.
            prompts: B lists of token ids, each at least one long.
            key: the run's sampling key.
            step: folded into the key, so that the same prompt is sampled anew at another step.
            prompt_ids: int32 [B], what names a prompt in its key; its index in the list by default.
            samples: K.
            bucket: prompts are padded to a multiple of this many columns.
            sharding: where rows go; their number must be a multiple of its devices.

        Returns:
            ``Rollout`` of B prompts with K responses.

        Raises:
            ValueError: on an empty list or an empty prompt.
        """
        if not prompts or any(len(p) == 0 for p in prompts):
            raise ValueError("every prompt needs at least one token (the begin-of-sequence token, say)")
        ids = np.arange(len(prompts)) if prompt_ids is None else np.asarray(prompt_ids)
        width = -(-max(len(p) for p in prompts) // bucket) * bucket
        tokens, lengths = _right_pad(prompts, width, self.pad_id)
        keys = response_keys(
            key,
            step,
            jnp.asarray(np.repeat(ids, samples), jnp.int32),
            jnp.asarray(np.tile(np.arange(samples), len(ids))),
        )
        if sharding is not None:
            tokens, lengths, keys = (jax.device_put(x, sharding) for x in (tokens, lengths, keys))
        for state in self._states(self._lay_out(params), tokens, lengths, keys, samples):
            last = state
        return _rollout(jnp.asarray(tokens), jnp.asarray(lengths), last, samples)

    def stream(self, params: Params, prompt: PromptIds, *, key: Array, bucket: int = 32) -> Iterator[int]:
        """Sample one response, token by token as the windows give them (``SamplingConfig.window`` at a time).

        Args:
            params: the policy's.
            prompt: token ids, at least one.
            key: the sampling key.
            bucket: the prompt is padded to a multiple of this many columns, so that one program serves a chat's turns.

        Yields:
            Token ids, the end-of-sequence token included.
        """
        tokens, lengths = _right_pad([prompt], -(-len(prompt) // bucket) * bucket, self.pad_id)
        keys = response_keys(key, 0, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))
        given = 0
        for state in self._states(self._lay_out(params), tokens, lengths, keys, samples=1):
            # Read before the next window: it is given this state to reuse.
            drawn = np.asarray(state.tokens)[0][np.asarray(state.counted)[0]].tolist()
            yield from drawn[given:]
            given = len(drawn)

    def _states(self, laid: Params, prompts: Any, lengths: Any, keys: Array, samples: int) -> Iterator[_State]:
        """The state after the first token and after each window; each is used up by the next."""
        width, length = prompts.shape[1], self.config.max_new_tokens
        state = self._start(laid, prompts, lengths, keys, samples=samples, columns=width + length)
        yield state
        written = 1
        while written < length and not bool(jnp.all(state.done)):
            count = min(self.config.window, length - written)
            state = self._window(laid, state, keys, count=count)
            written += count
            yield state


def _right_pad(prompts: Sequence[PromptIds], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, np.asarray([len(prompt) for prompt in prompts], np.int32)


@functools.partial(jax.jit, static_argnames=("samples",))
def _rollout(prompts: Array, lengths: Array, state: _State, samples: int) -> Rollout:
    """Join prompts [B, P], moved to the right, and responses [B*K, R] into groups [B, K, P + R]."""
    width = prompts.shape[1]
    prompts = jax.vmap(jnp.roll)(prompts, width - lengths)
    real = jnp.arange(width)[None] >= width - lengths[:, None]
    prompts, real = (jnp.repeat(x, samples, axis=0) for x in (prompts, real))
    group = lambda x: x.reshape(-1, samples, *x.shape[1:])  # noqa: E731
    segment = jnp.concatenate([real, state.counted], axis=-1)
    return Rollout(
        tokens=group(jnp.concatenate([prompts, state.tokens], axis=-1)),
        mask=group(jnp.concatenate([jnp.zeros_like(real), state.counted], axis=-1)),
        segment_ids=group(segment.astype(jnp.int32)),
        positions=group(jnp.maximum(jnp.cumsum(segment, axis=-1) - 1, 0)),
        logprobs=group(jnp.concatenate([jnp.zeros(real.shape, jnp.float32), state.logprobs], axis=-1)),
        finished=group(state.finished),
    )
