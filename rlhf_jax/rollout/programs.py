"""The compiled programs of a sampling engine: what happens on the devices between two looks of the host.

Rows are independent: each has its own key, length and number of tokens, and one that has ended attends to nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.rollout.sampling import SamplingConfig, sample_token
from rlhf_jax.rollout.stopping import StopTable
from rlhf_jax.types import Array, Cache, Model, Params

# Tokens between two questions whether the loop may end: on a mesh the answer is a sum over all devices.
STRIDE = 4


class State(NamedTuple):
    """What a program hands to the next; donated from one to the other."""

    tokens: Array  # int32 [N, R], pad where nothing was written
    logprobs: Array  # float32 [N, R]
    written: Array  # int32 [N], tokens of the response so far
    done: Array  # bool [N]
    finished: Array  # bool [N]
    last: Array  # int32 [N], the newest token
    matched: Array  # int32 [N], the state of the stop table
    keys: Array  # [N]
    cache: Cache
    steps: Array  # int32 [], decode steps since the rows were last gathered


class Programs(NamedTuple):
    """The programs of an engine, each compiled once for every shape it meets.

    ``sharding`` is that of the rows; the model is traced under its mesh.
    """

    lay_out: Callable[..., Params]  # (params, sharding=): weights for decoding
    start: Callable[..., State]  # (laid, prompts, lengths, keys, samples=, columns=, sharding=): all rows at once
    empty: Callable[..., State]  # (keys, columns=, sharding=): rows that have all ended
    prefill: Callable[..., tuple[Array, Cache]]  # (laid, prompts, lengths, sharding=)
    place: Callable[..., State]  # (state, (logits, cache), source, slot, keys, sharding=): prompts into slots
    window: Callable[..., State]  # (laid, state, live, sharding=): decode until no more than ``live`` rows live
    gather: Callable[..., State]  # (state, rows, sharding=): fewer rows


def make_programs(
    model: Model,
    config: SamplingConfig,
    *,
    pad_id: int,
    end_ids: Sequence[int],
    stop: StopTable | None,
    logprob_temperature: float | None,
) -> Programs:
    """Make the programs of an engine.

    Args:
        model: the policy as pure functions.
        config: how to draw.
        pad_id: stands where no token was written.
        end_ids: any of them ends a response.
        stop: what ends a response as well, if anything.
        logprob_temperature: the temperature of the log-probabilities.
    """
    draw = functools.partial(
        sample_token,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        logprob_temperature=logprob_temperature,
    )
    room = config.max_new_tokens
    stride = next(n for n in range(STRIDE, 0, -1) if config.window % n == 0)

    def is_end(token: Array) -> Array:
        return token == end_ids[0] if len(end_ids) == 1 else jnp.isin(token, jnp.asarray(end_ids, jnp.int32))

    def write(state: State, token: Array, logprob: Array, alive: Array) -> State:
        """Put one drawn token a row into the state where the row is alive."""

        def put(held: Array, new: Array) -> Array:  # row by row: devices that share the rows exchange nothing
            at = jnp.where(alive, state.written, room)
            return jax.vmap(lambda row, i, x: row.at[i].set(x, mode="drop"))(held, at, new)

        tokens = put(state.tokens, token)
        written, matched, ends = state.written + alive, state.matched, is_end(token)
        if stop is not None:
            matched = jnp.where(alive, stop.step(matched, token), matched)
            ends |= stop.stopped(matched)
        ends &= alive
        return state._replace(
            tokens=tokens,
            logprobs=put(state.logprobs, logprob),
            written=written,
            finished=state.finished | ends,
            done=state.done | ends | (written >= room),
            last=jnp.where(alive, token, state.last),
            matched=matched,
        )

    def empty(keys: Array, columns: int, sharding: Any = None) -> State:
        n = keys.shape[0]
        state = State(
            tokens=jnp.full((n, room), pad_id, jnp.int32),
            logprobs=jnp.zeros((n, room), jnp.float32),
            written=jnp.zeros((n,), jnp.int32),
            done=jnp.ones((n,), bool),
            finished=jnp.zeros((n,), bool),
            last=jnp.zeros((n,), jnp.int32),
            matched=jnp.zeros((n,), jnp.int32),
            keys=keys,
            cache=model.cache(n, columns),
            steps=jnp.int32(0),
        )
        return _spread(state, sharding)

    def lay_out(params: Params, sharding: Any = None) -> Params:
        with _traced_for(sharding):
            return model.lay_out(params)

    def prefill(laid: Params, prompts: Array, lengths: Array, sharding: Any = None) -> tuple[Array, Cache]:
        with _traced_for(sharding):
            return model.prefill(laid, prompts, lengths)

    def start(
        laid: Params, prompts: Array, lengths: Array, keys: Array, samples: int, columns: int, sharding: Any = None
    ) -> State:
        with _traced_for(sharding):
            return started(laid, prompts, lengths, keys, samples, columns)

    def started(laid: Params, prompts: Array, lengths: Array, keys: Array, samples: int, columns: int) -> State:
        logits, filled = model.prefill(laid, prompts, lengths)
        repeat = functools.partial(jnp.repeat, repeats=samples, axis=0)
        logits, filled = repeat(logits), jax.tree.map(repeat, filled)
        state = empty(keys, columns)
        cache = jax.tree.map(
            lambda held, new: jax.lax.dynamic_update_slice(held, new, (0,) * held.ndim), state.cache, filled
        )
        alive = jnp.ones(state.done.shape, bool)
        return write(state._replace(cache=cache, done=~alive), *draw(keys, logits, state.written), alive)

    def place(
        state: State, held: tuple[Array, Cache], source: Array, slot: Array, keys: Array, sharding: Any = None
    ) -> State:
        """Put prompt ``source[i]`` of those held into row ``slot[i]`` and draw its first token; slot N is none."""

        def put(leaf: Array, new: Array) -> Array:
            at = (slot, *(slice(0, size) for size in new.shape[1:]))
            return leaf.at[at].set(new[source], mode="drop")

        def fill(leaf: Array, value: Any) -> Array:
            return leaf.at[slot].set(value, mode="drop")

        logits, filled = held
        token, logprob = draw(keys, logits[source], jnp.int32(0))
        placed = fill(jnp.zeros(state.done.shape, bool), True)
        state = state._replace(
            tokens=fill(state.tokens, pad_id),
            logprobs=fill(state.logprobs, 0.0),
            written=fill(state.written, 0),
            done=fill(state.done, False),
            finished=fill(state.finished, False),
            matched=fill(state.matched, 0),
            keys=jax.random.wrap_key_data(
                fill(jax.random.key_data(state.keys), jax.random.key_data(keys)), impl=jax.random.key_impl(keys)
            ),
            cache=jax.tree.map(put, state.cache, filled),
        )
        state = write(state, fill(state.last, token), fill(jnp.zeros(placed.shape, jnp.float32), logprob), placed)
        return _spread(state, sharding)

    def step(laid: Params, state: State) -> State:
        # A row that has ended holds nothing, so its attention reads one column.
        cache = state.cache._replace(lengths=jnp.where(state.done, 0, state.cache.lengths))
        logits, cache = model.decode(laid, state.last, cache)
        state = state._replace(cache=cache, steps=state.steps + 1)
        return write(state, *draw(state.keys, logits, state.written), ~state.done)

    def window(laid: Params, state: State, live: Array, sharding: Any = None) -> State:
        def goes_on(carry: tuple[Array, State]) -> Array:
            return (carry[0] < config.window) & (jnp.sum(~carry[1].done) > live)

        def several(carry: tuple[Array, State]) -> tuple[Array, State]:
            state = jax.lax.fori_loop(0, stride, lambda _, s: step(laid, s), carry[1])
            return carry[0] + stride, state

        with _traced_for(sharding):
            return jax.lax.while_loop(goes_on, several, (jnp.int32(0), state))[1]

    def gather(state: State, rows: Array, sharding: Any = None) -> State:
        fewer = jax.tree.map(lambda x: x[rows], state._replace(steps=rows))
        return _spread(fewer._replace(steps=jnp.int32(0)), sharding)

    return Programs(
        jax.jit(lay_out, static_argnames=("sharding",)),
        jax.jit(start, static_argnames=("samples", "columns", "sharding")),
        jax.jit(empty, static_argnames=("columns", "sharding")),
        jax.jit(prefill, static_argnames=("sharding",)),
        jax.jit(place, static_argnames=("sharding",), donate_argnames=("state",)),
        jax.jit(window, static_argnames=("sharding",), donate_argnames=("state",)),
        jax.jit(gather, static_argnames=("sharding",)),
    )


def _traced_for(sharding: Any) -> contextlib.AbstractContextManager[Any]:
    """Let the model know the mesh that rows are spread over, so that it holds activations and cache by rows as well."""
    if not isinstance(sharding, NamedSharding):
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)


def _spread(state: State, sharding: Any) -> State:
    """Hold the rows of a state where a mesh has them, whatever the compiler thinks of the other axes."""
    if not isinstance(sharding, NamedSharding):
        return state
    rows = sharding.spec[0] if len(sharding.spec) else None

    def one(x: Array) -> Array:
        if x.ndim == 0:
            return x
        spec = PartitionSpec(rows, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(one, state)
