"""Which prompt runs in which slot: finished rows are refilled, and a ragged tail runs in ever fewer rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import processes
from rlhf_jax.rollout.programs import Programs, State
from rlhf_jax.types import Array, Params

# A refill waits for this share of the slots: each costs a prefill of a fixed number of prompts.
REFILL = 8
# The live rows of a tail are gathered into half as many slots, at most this often.
HALVINGS = 3


class Cost(NamedTuple):
    """What the last call of an engine cost."""

    tokens: int  # in all responses
    slot_steps: int  # rows times decode steps; a response's first token, which its prefill gives, counts as one


class Results(NamedTuple):
    """What was sampled, a row a response, on the host."""

    tokens: np.ndarray  # int32 [T, R]
    logprobs: np.ndarray  # float32 [T, R]
    written: np.ndarray  # int32 [T]
    finished: np.ndarray  # bool [T]


class _Held(NamedTuple):
    filled: Any  # the logits and the cache of a group of prompts
    items: list[tuple[int, int]]  # those not yet placed: which prompt of the group, which response


def row_shards(sharding: jax.sharding.Sharding | None) -> int:
    """Count the parts that a sharding cuts rows into.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> row_shards(jax.NamedSharding(mesh, jax.P("data"))), row_shards(None)
        (1, 1)
    """
    if sharding is None:
        return 1
    return sharding.num_devices // sharding.shard_shape((sharding.num_devices,))[0]


def refilled(slots: int, samples: int, devices: int) -> tuple[int, int]:
    """Decide how many rows are refilled at once, and how many prompts are prefilled for them.

    Args:
        slots: rows.
        samples: responses to each prompt.
        devices: parts that rows are cut into.
    """
    batch = max(1, slots // REFILL)
    return batch, math.ceil(math.ceil(batch / samples) / devices) * devices


def run(
    programs: Programs,
    laid: Params,
    prompts: Sequence[Any],
    keys: Array,
    *,
    slots: int,
    samples: int,
    width: int,
    room: int,
    pad_id: int,
    sharding: jax.sharding.Sharding | None,
) -> tuple[Results, Cost]:
    """Sample ``samples`` responses to each prompt in ``slots`` rows.

    Args:
        programs: the engine's.
        laid: the weights, laid out for decoding.
        prompts: B lists of token ids; the longest go first.
        keys: [B * samples], one a response.
        slots: rows; a multiple of ``row_shards(sharding)``.
        samples: responses to each prompt.
        width: columns of the longest prompt.
        room: tokens of the longest response.
        pad_id: fills prompts up.
        sharding: where rows go.

    Returns:
        The responses in the order of ``keys``, and what they cost.

    Raises:
        ValueError: when the devices cannot share the slots evenly.
    """
    devices = row_shards(sharding)
    batch, group = refilled(slots, samples, devices)
    if slots % devices:
        raise ValueError(f"slots must be a multiple of the {devices} parts that a mesh cuts rows into, found {slots}")
    widths = [w for w in (width // 4, width // 2) if w >= REFILL] + [width]
    count = len(prompts) * samples
    results = Results(
        np.full((count, room), pad_id, np.int32),
        np.zeros((count, room), np.float32),
        np.zeros(count, np.int32),
        np.zeros(count, bool),
    )

    def prefill(rows: Sequence[Any], columns: int) -> Any:
        padded, lengths = np.full((group, columns), pad_id, np.int32), np.ones(group, np.int32)
        for i, row in enumerate(rows):
            padded[i, : len(row)], lengths[i] = row, len(row)
        return programs.prefill(
            laid,
            *(x if sharding is None else processes.put(x, sharding) for x in (padded, lengths)),
            sharding=sharding,
        )

    def place(state: State, filled: Any, items: list[tuple[int, int]], free: np.ndarray) -> State:
        source, response, slot = (
            np.zeros(batch, np.int32),
            np.zeros(batch, np.int32),
            np.full(batch, len(owner), np.int32),
        )
        for i, (prompt, item) in enumerate(items):
            source[i], response[i], slot[i] = prompt, item, free[i]
        return programs.place(state, filled, source, slot, keys[response], sharding=sharding)

    owner = np.full(slots, -1)
    state = programs.empty(keys[np.zeros(slots, np.int32)], columns=width + room, sharding=sharding)
    # Every width is met once up front, with nothing to place, so that a later call with other lengths compiles nothing.
    for columns in widths:
        state = place(state, prefill([], columns), [], owner)
    halved = state
    while len(halved.done) % (2 * devices) == 0 and len(halved.done) * 2**HALVINGS > slots:
        fewer = programs.gather(halved, np.arange(len(halved.done) // 2), sharding=sharding)
        halved = programs.window(laid, fewer, 0, sharding=sharding)

    order = sorted(range(len(prompts)), key=lambda p: -len(prompts[p]))
    held, begun, waiting, slot_steps, stepped = _Held(None, []), 0, count, count, 0
    while waiting or (owner >= 0).any():
        free = np.flatnonzero(owner < 0)
        while waiting and len(free) >= min(batch, waiting):
            if not held.items:
                some = order[begun : begun + group]
                longest = len(prompts[some[0]])
                filled = prefill([prompts[p] for p in some], next(w for w in widths if w >= longest))
                held = _Held(filled, [(i, p * samples + k) for i, p in enumerate(some) for k in range(samples)])
                begun += group
            taken = held.items[: min(batch, len(free))]
            state = place(state, held.filled, taken, free)
            owner[free[: len(taken)]] = [item for _, item in taken]
            free, waiting = free[len(taken) :], waiting - len(taken)
            held = held._replace(items=held.items[len(taken) :])
        half = len(owner) // 2
        can_halve = len(owner) % (2 * devices) == 0 and len(owner) * 2**HALVINGS > slots
        if not waiting and can_halve and (owner >= 0).sum() <= half:
            rows = np.argsort(owner < 0, kind="stable")[:half]
            state, owner, stepped = programs.gather(state, rows, sharding=sharding), owner[rows], 0
            continue
        live = len(owner) - min(batch, waiting) if waiting else (half if can_halve else 0)
        state = programs.window(laid, state, live, sharding=sharding)
        steps, done, *found = processes.fetch(
            (state.steps, state.done, state.tokens, state.logprobs, state.written, state.finished)
        )
        slot_steps, stepped = slot_steps + (int(steps) - stepped) * len(owner), int(steps)
        ended = np.flatnonzero(done & (owner >= 0))
        for to, new in zip(results, found, strict=True):
            to[owner[ended]] = new[ended]
        owner[ended] = -1
    return results, Cost(int(results.written.sum()), slot_steps)
