"""Sequences of different lengths in arrays of one shape: several to a row (``pack``) or one (``pad``).

Segments are numbered from 1 and positions restart in each, so attention and the objective see every sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.types import Packing, SequenceBatch


class Example(NamedTuple):
    """One group: K token sequences, where the targets of each begin, and what people said of them."""

    tokens: tuple[np.ndarray, ...]  # K times int32 [n_tokens], prompt and response
    starts: tuple[int, ...]  # per sequence the index of the first target token, that is the length of its prompt
    votes: np.ndarray | None = None  # float32 [K, K]
    ratings: np.ndarray | None = None  # float32 [K]; the mean of what people gave each response
    labels: np.ndarray | None = None  # float32 [K]; 1 thumbs up, 0 thumbs down
    masks: tuple[np.ndarray, ...] | None = None  # K times bool [n_tokens]; which tokens are targets, in place of starts
    weight: float | None = None  # what the group counts for in the loss; None is 1


def plan(
    lengths: Sequence[Sequence[int]] | np.ndarray, order: np.ndarray, *, rows: int, row_length: int, max_groups: int
) -> list[np.ndarray]:
    """Cut an epoch into batches: groups are taken in the given order until the next one does not fit.

    A group's sequences may lie in different rows. Which groups share a batch depends only on the arguments.

    Args:
        lengths: int [G, K], tokens of every sequence of every group; groups may differ in K.
        order: int [n], the groups to use, in order (a permutation of G, or a part of one).
        rows: rows a batch has.
        row_length: tokens a row has.
        max_groups: groups a batch may have.

    Returns:
        The batches, each int [at most max_groups]: indices of groups.

    Raises:
        ValueError: if a group alone does not fit, or a batch may have no groups.

    Example:
        >>> batches = plan(np.array([[4], [3], [5], [2]]), np.arange(4), rows=1, row_length=7, max_groups=8)
        >>> [batch.tolist() for batch in batches]
        [[0, 1], [2, 3]]
    """
    if max_groups < 1:
        raise ValueError(f"max_groups={max_groups}: expected at least 1")
    sizes = [[int(n) for n in group] for group in lengths]
    waiting: list[int] = np.asarray(order).tolist()
    capacity = rows * row_length
    batches: list[np.ndarray] = []
    begin = 0
    while begin < len(waiting):
        # As many as there are tokens for, then fewer until they fit: the rows fill up well, so this takes a few steps.
        end, used = begin, 0
        while end < min(len(waiting), begin + max_groups) and used + sum(sizes[waiting[end]]) <= capacity:
            used += sum(sizes[waiting[end]])
            end += 1
        while end > begin and not _fits([n for group in waiting[begin:end] for n in sizes[group]], rows, row_length):
            end -= 1
        if end == begin:
            group = waiting[begin]
            raise ValueError(
                f"group {group} with lengths {sizes[group]} does not fit in {rows} rows of {row_length} tokens: what "
                f"is compared stands in one batch, so {_needed(sizes[group], row_length)} rows or "
                "longer ones are needed (--rows, --row-length; with --micro-batches each part needs as many)"
            )
        batches.append(np.asarray(waiting[begin:end], np.int64))
        begin = end
    return batches


def _needed(lengths: Sequence[int], row_length: int) -> int | str:
    """Count the rows that sequences need; a phrase where no number of rows is enough."""
    if max(lengths) > row_length:
        return "more"
    return next(rows for rows in range(1, len(lengths) + 1) if _fits(lengths, rows, row_length))


def _fits(lengths: Sequence[int], rows: int, row_length: int) -> bool:
    return _first_fit_decreasing(lengths, rows, row_length) is not None


def _first_fit_decreasing(lengths: Sequence[int], rows: int, row_length: int) -> list[tuple[int, int]] | None:
    """Place every sequence at a (row, column): longest first, each in the first row with room; None if one has none."""
    places: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    filled = [0] * rows
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # stable, so ties keep their order
        length = lengths[index]
        row = next((r for r in range(rows) if filled[r] + length <= row_length), None)
        if row is None:
            return None
        places[index] = (row, filled[row])
        filled[row] += length
    return places


def pack(
    examples: Sequence[Example], *, rows: int, row_length: int, groups: int, responses: int, length: int, pad_id: int
) -> SequenceBatch:
    """Pack groups into ``rows`` rows; every batch of an epoch has the same shapes, so one program serves them all.

    Args:
        examples: at most ``groups`` of them, each with at most ``responses`` sequences of at most ``length`` tokens.
            A batch made by ``plan`` with the same ``rows`` and ``row_length`` fits.
        rows: N, rows of the forward pass.
        row_length: L, tokens of a row.
        groups: B, groups of the logical batch; what examples do not fill is empty (mask False, segment 0).
        responses: K.
        length: S, tokens of the logical batch.
        pad_id: what fills empty places.

    Returns:
        A batch of numpy arrays [B, K, S] with ``packing`` set; ``votes``, ``rating`` and ``label`` are set if any
        example has them.

    Raises:
        ValueError: if something does not fit.

    Example:
        >>> example = Example((np.array([1, 5, 6, 2], np.int32),), (2,))
        >>> batch = pack([example] * 2, rows=1, row_length=8, groups=2, responses=1, length=4, pad_id=0)
        >>> batch.packing.segment_ids.tolist(), batch.packing.places[1, 0].tolist()
        ([[1, 1, 1, 1, 2, 2, 2, 2]], [4, 5, 6, 7])
    """
    batch = pad(examples, length=length, pad_id=pad_id, groups=groups, responses=responses)
    lengths = [len(tokens) for example in examples for tokens in example.tokens]
    places = _first_fit_decreasing(lengths, rows, row_length)
    if places is None:
        raise ValueError(f"{len(lengths)} sequences of {sum(lengths)} tokens do not fit in {rows} rows of {row_length}")
    tokens = np.full(rows * row_length, pad_id, np.int32)
    segment_ids = np.zeros(rows * row_length, np.int32)
    positions = np.zeros(rows * row_length, np.int32)
    index = np.zeros((groups * responses, length), np.int32)
    segments = [0] * rows
    count = np.arange(max(length, 1), dtype=np.int32)
    flat = [
        (b * responses + k, sequence) for b, example in enumerate(examples) for k, sequence in enumerate(example.tokens)
    ]
    for (number, sequence), (row, column) in zip(flat, places, strict=True):
        size, start = len(sequence), row * row_length + column
        segments[row] += 1
        tokens[start : start + size] = sequence
        segment_ids[start : start + size] = segments[row]
        positions[start : start + size] = count[:size]
        index[number, :size] = start + count[:size]
    shape = (rows, row_length)
    packing = Packing(  # numpy here, arrays of jax once the batch is put on devices
        tokens=tokens.reshape(shape),  # type: ignore[arg-type]
        segment_ids=segment_ids.reshape(shape),  # type: ignore[arg-type]
        positions=positions.reshape(shape),  # type: ignore[arg-type]
        places=index.reshape(groups, responses, length),  # type: ignore[arg-type]
    )
    return batch._replace(packing=packing)


def pad(
    examples: Sequence[Example],
    *,
    length: int,
    pad_id: int,
    side: str = "right",
    groups: int | None = None,
    responses: int | None = None,
) -> SequenceBatch:
    """Pad every sequence to ``length``: one sequence a row, no packing.

    Args:
        examples: groups of at most K sequences; one with fewer is filled up with empty ones, which count for nothing.
        length: S, tokens of the batch.
        pad_id: what fills empty places.
        side: where the padding goes, "right" or "left".
        groups: B; as many as there are examples if None. What examples do not fill is empty (mask False, segment 0).
        responses: K; that of the largest example if None.

    Returns:
        A batch of numpy arrays [B, K, S]; ``votes``, ``rating``, ``label``, ``weight`` are set if any example has them.

    Raises:
        ValueError: if a sequence, a group or the number of groups is too large, or a mask is not as long as its
            sequence.

    Example:
        >>> batch = pad([Example((np.array([1, 5, 6, 2], np.int32),), (2,))], length=5, pad_id=0)
        >>> batch.tokens.tolist(), batch.mask.tolist()
        ([[[1, 5, 6, 2, 0]]], [[[False, False, True, True, False]]])
    """
    if side not in ("right", "left"):
        raise ValueError(f"side={side!r}: expected 'right' or 'left'")
    groups = len(examples) if groups is None else groups
    if responses is None:
        responses = max((len(example.tokens) for example in examples), default=1)
    if len(examples) > groups:
        raise ValueError(f"{len(examples)} examples do not fit in {groups} groups")
    shape = (groups, responses, length)
    tokens = np.full(shape, pad_id, np.int32)
    mask = np.zeros(shape, bool)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    count = np.arange(length, dtype=np.int32)
    for b, example in enumerate(examples):
        if len(example.tokens) > responses:
            raise ValueError(f"example {b} has {len(example.tokens)} sequences, expected at most {responses}")
        for k, (sequence, first) in enumerate(zip(example.tokens, example.starts, strict=True)):
            size = len(sequence)
            if size > length:
                raise ValueError(f"example {b}, sequence {k} has {size} tokens, expected at most {length}")
            start = 0 if side == "right" else length - size
            tokens[b, k, start : start + size] = sequence
            if example.masks is None:
                mask[b, k, start + first : start + size] = True
            else:
                mask[b, k, start : start + size] = _of_size(example.masks[k], size, b, k)
            segment_ids[b, k, start : start + size] = 1
            positions[b, k, start : start + size] = count[:size]
    return SequenceBatch(
        tokens=tokens,  # type: ignore[arg-type]
        mask=mask,  # type: ignore[arg-type]
        segment_ids=segment_ids,  # type: ignore[arg-type]
        positions=positions,  # type: ignore[arg-type]
        votes=_said([e.votes for e in examples], (groups, responses, responses)),
        rating=_said([e.ratings for e in examples], (groups, responses)),
        label=_said([e.labels for e in examples], (groups, responses)),
        weight=_weights(examples, groups),
    )


def _of_size(mask: np.ndarray, size: int, b: int, k: int) -> np.ndarray:
    if mask.shape != (size,):  # numpy would spread one of a single entry
        raise ValueError(f"example {b}, sequence {k} has {size} tokens and a mask of shape {mask.shape}")
    return mask


def _weights(examples: Sequence[Example], groups: int) -> np.ndarray | None:
    """What each group counts for, 1 where it does not say; None where none does."""
    if all(example.weight is None for example in examples):
        return None
    weights = np.ones(groups, np.float32)
    weights[: len(examples)] = [1.0 if example.weight is None else example.weight for example in examples]
    return weights


def _said(each: Sequence[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
    """Join what people said of the groups into one array, 0 where they said nothing; None if they never did."""
    if all(x is None for x in each):
        return None
    together = np.zeros(shape, np.float32)
    for b, x in enumerate(each):
        if x is not None:
            together[b][tuple(slice(size) for size in x.shape)] = x
    return together
