"""From examples to training batches: epochs of packed rows whose order is a function of the step alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from rlhf_jax.data import Example, pack, plan
from rlhf_jax.renamed import renamed
from rlhf_jax.types import SequenceBatch


class Batches(Protocol):
    """What a stage trains on: a batch for every step, all of the same shapes; the same ones at any time."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Any: ...


class PackedEpochs:
    """All batches of a run by step: ``batches[step]``, the same on any machine, mesh and after any resume.

    Every batch has the same shapes, those that the fullest batch needs, so one compiled program serves all.

    Args:
        epoch: ``(number) -> examples`` in the order they are to be seen; a pure function.
        epochs: how many.
        rows: physical rows of a batch.
        row_length: tokens of a row.
        pad_id: what fills empty places.
        groups: groups of a batch at least, so that it can stand beside another's.
        length: tokens of a sequence at least, for the same reason.

    Raises:
        ValueError: when there are no examples.
    """

    def __init__(
        self,
        epoch: Callable[[int], Sequence[Example]],
        *,
        epochs: int,
        rows: int,
        row_length: int,
        pad_id: int,
        groups: int = 1,
        length: int = 1,
    ):
        self._epoch = functools.lru_cache(maxsize=1)(epoch)
        self._rows, self._row_length, self._pad_id = rows, row_length, pad_id
        self._plan: list[tuple[int, np.ndarray]] = []
        self._length, self._responses, self.examples = length, 1, 0
        for number in range(epochs):
            examples = self._epoch(number)
            if not examples:
                raise ValueError("there is nothing to train on: the data has no usable row")
            lengths = [[len(t) for t in e.tokens] for e in examples]
            self.examples += len(examples)
            self._length = max(self._length, *(n for each in lengths for n in each))
            self._responses = max(self._responses, *map(len, lengths))
            order = np.arange(len(examples))
            batches = plan(lengths, order, rows=rows, row_length=row_length, max_groups=rows * row_length)
            self._plan += [(number, chosen) for chosen in batches]
        self._groups = max(groups, *(len(chosen) for _, chosen in self._plan))

    def __len__(self) -> int:
        return len(self._plan)

    def count(self, step: int) -> int:
        """Groups that a batch really holds; the rest is filler."""
        return len(self._plan[step][1])

    @property
    def shape(self) -> tuple[int, int]:
        """Groups and tokens of the logical batch."""
        return self._groups, self._length

    def __getitem__(self, step: int) -> SequenceBatch:
        number, chosen = self._plan[step]
        examples = self._epoch(number)
        return pack(
            [examples[i] for i in chosen],
            rows=self._rows,
            row_length=self._row_length,
            groups=self._groups,
            responses=self._responses,
            length=self._length,
            pad_id=self._pad_id,
        )


def micro_batched(parts: Batches, count: int) -> Batches:
    """Put ``count`` parts into each batch; with ``count`` 1 every part is a batch of its own, without an axis [A].

    Args:
        parts: the parts in the order they are to be seen.
        count: parts of a batch, A.

    Returns:
        ``parts`` themselves where ``count`` is 1, else ``MicroBatches`` of them.
    """
    return parts if count == 1 else MicroBatches(parts, count)


class MicroBatches:
    """Batches in parts, ``[A, ...]``: those of ``parts``, A at a time, whose gradients are added up in one update.

    What the last batch lacks is filled with parts that hold nothing: masked out everywhere, they count for nothing.

    Args:
        parts: the parts in the order they are to be seen.
        count: parts of a batch, A.

    Example:
        >>> import numpy as np
        >>> MicroBatches([np.array([1.0]), np.array([2.0]), np.array([3.0])], 2)[1]
        array([[3.],
               [0.]])
    """

    def __init__(self, parts: Batches, count: int):
        self._parts, self._count = parts, count

    def __len__(self) -> int:
        return -(-len(self._parts) // self._count)

    def __getitem__(self, step: int) -> Any:
        first = step * self._count
        held = [self._parts[i] for i in range(first, min(first + self._count, len(self._parts)))]
        held += [jax.tree.map(np.zeros_like, held[0])] * (self._count - len(held))
        return jax.tree.map(lambda *x: np.stack(x), *held)


class MemberBatches:
    """One batch for each member of an ensemble, stacked: [M, B, ...]; as many steps as the shortest member has.

    Args:
        epochs_of: for every member its ``epoch``, as for ``PackedEpochs``, whose other arguments are the same for all.
        epochs: how many.
        rows: physical rows of a member's batch.
        row_length: tokens of a row.
        pad_id: what fills empty places.
    """

    def __init__(
        self,
        epochs_of: Sequence[Callable[[int], Sequence[Example]]],
        *,
        epochs: int,
        rows: int,
        row_length: int,
        pad_id: int,
    ):
        make = functools.partial(PackedEpochs, epochs=epochs, rows=rows, row_length=row_length, pad_id=pad_id)
        groups, length = (max(sizes) for sizes in zip(*(make(epoch).shape for epoch in epochs_of), strict=True))
        self._members = [make(epoch, groups=groups, length=length) for epoch in epochs_of]

    def __len__(self) -> int:
        return min(map(len, self._members))

    @property
    def examples(self) -> int:
        """Groups of all members in all epochs."""
        return sum(member.examples for member in self._members)

    @property
    def left_out(self) -> int:
        """Groups in the batches that stand behind the shortest member's last, and are in no step."""
        return sum(member.count(step) for member in self._members for step in range(len(self), len(member)))

    def __getitem__(self, step: int) -> SequenceBatch:
        return jax.tree.map(lambda *x: np.stack(x), *(member[step] for member in self._members))


__getattr__ = renamed(__name__, {"in_parts": "data.batches.micro_batched"})
