"""Encoded rows between processes: each tokenises its share, and all get every row's tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_jax import processes
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.packing import Example

Encoded = tuple[list[int], list[Example], list[str]]  # which rows, their tokens, and what is wrong with the others


def in_shares(rows: Sequence[Any], encode: Callable[[Sequence[Any]], Encoded], what: str) -> Encoded:
    """Encode rows, each process its share of them.

    The result is that of one process: the order of the data, which follows from the lengths of all rows, is then a
    function of seed and step, however many processes there are.

    Args:
        rows: the same in every process.
        encode: ``rows -> (indices of those that are used, their examples, a text for each of the others)``.
        what: names the rows in the error.

    Returns:
        What ``encode`` gives for all rows.

    Raises:
        DataError: a row of this process' share cannot be used.
        OtherProcessError: one of another's cannot.
    """
    if processes.several():
        _same_everywhere(rows, what)
    part = processes.share(len(rows))
    kept, examples, bad = processes.agree(lambda: encode(rows[part]), what, (DataError,))
    if not processes.several():
        return kept, examples, bad
    parts = processes.exchange(to_bytes(examples))
    said = processes.exchange_json([[part.start + i for i in kept], bad])
    return (
        [i for own, _ in said for i in own],
        [example for own in parts for example in from_bytes(own)],
        [text for _, own in said for text in own],
    )


def _same_everywhere(rows: Sequence[Any], what: str) -> None:
    """Raise a DataError where processes have other rows: one's tokens would stand beside another's texts."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    said = processes.exchange_json([len(rows), digest.hexdigest()])
    for number, (count, sha256) in enumerate(said):
        if [count, sha256] != said[0]:
            raise DataError(
                f"{what}: process {number} has read other rows than process 0 ({count} and {said[0][0]}): all hosts "
                "must see the same files"
            )


def to_bytes(examples: Sequence[Example]) -> bytes:
    """Write examples as a line of JSON with their sizes, and the numbers behind it.

    Example:
        >>> one = Example((np.array([1, 5, 2], np.int32),), (1,), labels=np.array([1.0], np.float32))
        >>> again = from_bytes(to_bytes([one]))[0]
        >>> again.tokens[0].tolist(), again.starts, again.labels.tolist(), again.votes
        ([1, 5, 2], (1,), [1.0], None)
    """
    sizes = [
        [
            [len(t) for t in e.tokens],
            list(e.starts),
            *(None if x is None else list(x.shape) for x in (e.votes, e.ratings, e.labels)),
            e.masks is not None,
        ]
        for e in examples
    ]
    tokens = [t for e in examples for t in e.tokens]
    said = [x for e in examples for x in (e.votes, e.ratings, e.labels) if x is not None]
    masks = [m for e in examples for m in e.masks or ()]
    head = json.dumps(sizes).encode()
    return b"".join([head, b"\n", _joined(tokens, np.int32), _joined(said, np.float32), _joined(masks, np.bool_)])


def from_bytes(text: bytes) -> list[Example]:
    """Read what ``to_bytes`` wrote."""
    head, _, body = text.partition(b"\n")
    sizes = json.loads(head)
    counts = [
        sum(sum(lengths) for lengths, *_ in sizes),
        sum(int(np.prod(shape)) for _, _, *shapes, _ in sizes for shape in shapes if shape is not None),
    ]
    ends = [4 * counts[0], 4 * (counts[0] + counts[1])]
    tokens, said = np.frombuffer(body[: ends[0]], np.int32), np.frombuffer(body[ends[0] : ends[1]], np.float32)
    masks = np.frombuffer(body[ends[1] :], np.bool_)
    examples, at = [], [0, 0, 0]

    def take(which: int, numbers: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        size = int(np.prod(shape))
        at[which] += size
        return numbers[at[which] - size : at[which]].reshape(shape)

    for lengths, starts, *shapes, masked in sizes:
        own = tuple(take(0, tokens, (n,)) for n in lengths)
        votes, ratings, labels = (None if shape is None else take(1, said, shape) for shape in shapes)
        targets = tuple(take(2, masks, (n,)) for n in lengths) if masked else None
        examples.append(Example(own, tuple(starts), votes, ratings, labels, targets))
    return examples


def _joined(arrays: Sequence[np.ndarray], dtype: Any) -> bytes:
    return np.concatenate([np.asarray(x, dtype).reshape(-1) for x in arrays]).tobytes() if arrays else b""
