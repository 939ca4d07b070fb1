"""Log-likelihoods of given token sequences under a language model, in batches that a few programs serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import parallel, processes
from rlhf_jax.data.packing import Example, pad
from rlhf_jax.models.forward import forward
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.by_length import BUCKET, at_once, by_length
from rlhf_jax.types import Array, Model, Params, SequenceBatch


class Said(NamedTuple):
    """A sequence, and where in it the tokens begin whose log-likelihood is asked for."""

    tokens: np.ndarray  # int32 [n_tokens]
    start: int  # at least 1, as the first token follows on nothing


class Likelihood:
    """The log-likelihoods of sequences under any parameters of one model.

    Args:
        model: the language model as pure functions.
        pad_id: fills what a sequence leaves of its row.
        mesh: devices that share the rows; those of the parameters if None.
    """

    def __init__(self, model: Model, pad_id: int, mesh: Mesh | None = None):
        self.room = model.max_length or ROOM
        self._pad_id, self._mesh = pad_id, mesh

        def logprobs(params: Params, batch: SequenceBatch) -> Array:
            return forward({"policy": model}, {"policy": params}, batch).logprobs[:, 0]

        def likeliest(params: Params, batch: SequenceBatch) -> Array:
            rows = (batch.tokens[:, 0], batch.positions[:, 0], batch.segment_ids[:, 0])
            hidden = model.apply(params, *rows)
            # A row at a time: logits of a whole batch may be larger than the model.
            best = jax.lax.map(lambda h: jnp.argmax(model.logits(params, h[None])[0], axis=-1), hidden)
            return jnp.all((jnp.roll(best, 1, axis=-1) == rows[0]) | ~batch.mask[:, 0], axis=-1)

        def compiled(function: Callable[[Params, SequenceBatch], Array]) -> Callable[[Params, SequenceBatch], Array]:
            return jax.jit(function if mesh is None else parallel.traced_on(mesh, function))

        self._logprobs, self._likeliest = compiled(logprobs), compiled(likeliest)

    def __call__(self, params: Params, said: Sequence[Said]) -> np.ndarray:
        """Compute the summed log-probability of every sequence from its ``start`` on, float64 [n], nats.

        Args:
            params: the model's.
            said: the sequences, none of them longer than ``room``.
        """
        found = np.zeros(len(said), np.float64)
        for rows, batch in self._batches(said):
            found[rows] = processes.fetch(self._logprobs(params, batch))[: len(rows)].sum(-1, dtype=np.float64)
        return found

    def likeliest(self, params: Params, said: Sequence[Said]) -> np.ndarray:
        """Tell of every sequence whether each token from ``start`` on is the likeliest one, bool [n].

        Args:
            params: the model's.
            said: as for the log-likelihoods.
        """
        found = np.zeros(len(said), bool)
        for rows, batch in self._batches(said):
            found[rows] = processes.fetch(self._likeliest(params, batch))[: len(rows)]
        return found

    def _batches(self, said: Sequence[Said]) -> Iterator[tuple[np.ndarray, SequenceBatch]]:
        """Cut sequences into batches, those of about one length together; each with the places of its sequences."""
        lengths = [len(one.tokens) for one in said]
        size = at_once(lengths)
        if self._mesh is not None:  # a power of two, which the mesh divides where it can
            size = 1 << (size.bit_length() - 1)
        for rows, length in by_length(lengths, size):
            examples = [Example((said[i].tokens,), (said[i].start,)) for i in rows]
            room = min(length, max(self.room, BUCKET))
            yield rows, self._placed(pad(examples, length=room, pad_id=self._pad_id, groups=size))

    def _placed(self, batch: SequenceBatch) -> SequenceBatch:
        if self._mesh is None:
            return batch
        rows = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(parallel.BATCH))
        parts = parallel.axis_size(self._mesh, parallel.BATCH)
        return processes.put(batch, rows if batch.tokens.shape[0] % parts == 0 else parallel.replicated(self._mesh))


def windows(tokens: int, length: int, first: int = 1) -> Iterator[tuple[int, int, int]]:
    """Cut a long sequence into windows that a model can read, so that every token but the first ones is predicted once.

    The last window begins earlier than it need, so that its tokens have as much before them as fits.

    Args:
        tokens: how many tokens the sequence has.
        length: the most tokens of a window, at least 2.
        first: how many tokens stand before those that are predicted, at least 1.

    Yields:
        (begin, end, start): the window is ``[begin:end]``, and its tokens from ``start`` on are the ones that no window
        before it predicted.

    Example:
        >>> list(windows(7, 4))
        [(0, 4, 1), (3, 7, 1)]
        >>> list(windows(6, 4))
        [(0, 4, 1), (2, 6, 2)]
    """
    done = first
    while done < tokens:
        # As many as fit after one that is known; the first window has the sequence's beginning, if that leaves room.
        end = min(tokens, length if done < length else done - 1 + length)
        begin = max(0, end - length)
        yield begin, end, done - begin
        done = end
