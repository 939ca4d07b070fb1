"""Stop sequences: an automaton that reads a response's tokens, and says after each whether a sequence was written.

A text can be written by many token sequences: a stop string may begin inside one token and end inside another. The
automaton (Aho and Corasick 1975) reads the bytes that a token writes, all at once, so a response ends at the very token
that completes the string, on the device, whatever the batch, the window and the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax.types import Array


class StopTable(NamedTuple):
    """An automaton over tokens: it begins in state 0, and in its last state it stays, as a sequence was written."""

    kinds: np.ndarray  # int32 [V + 1], tokens with the same moves have the same kind; the last entry: any other token
    moves: np.ndarray  # int32 [kinds, states], the state after a token of this kind

    def step(self, state: Array, token: Array) -> Array:
        """Read one token a row: states and tokens, int32 [N] -> int32 [N]."""
        kind = jnp.asarray(self.kinds)[jnp.minimum(token, len(self.kinds) - 1)]
        return jnp.asarray(self.moves)[kind, state]

    def stopped(self, state: Array) -> Array:
        """Say where a sequence was written: bool [N]."""
        return state == self.moves.shape[1] - 1


def stop_at_text(texts: Sequence[str], spelled: Sequence[bytes]) -> StopTable:
    """Make the automaton that ends a response once its text holds one of some texts, whichever tokens wrote it.

    Args:
        texts: none of them empty.
        spelled: the bytes that each token of the vocabulary writes, ``Tokenizer.token_bytes``.

    Returns:
        The automaton. A token that may write more behind the text ends a response as well.

    Raises:
        ValueError: if a text is empty, or no tokens write it.

    Example:
        >>> table = stop_at_text(["ab"], [b"a", b"xa", b"bc", b"c"])
        >>> state = jnp.zeros(1, jnp.int32)
        >>> for token in (1, 2):  # "xabc"
        ...     state = table.step(state, jnp.array([token]))
        >>> table.stopped(state).tolist()
        [True]
    """
    if not all(texts):
        raise ValueError("a stop string is empty: it would end every response before its first token")
    # A byte of the command line that is no UTF-8 becomes "?" here, and is refused below.
    wanted = [list(text.encode(errors="replace")) for text in texts]
    # Behind the vocabulary: a token that writes nothing.
    read = _Spelled([*spelled, b""])
    for text, symbols in zip(texts, wanted, strict=True):
        broken = bytes(symbols).decode() != text
        if broken or not _reachable(read.moves(_automaton([symbols], 256))):
            raise ValueError(
                f"no tokens of this tokenizer write the stop string {text!r}, so it would never end a response: look "
                "for a character that the vocabulary lacks, or leave the string out"
            )
    return _table(read.moves(_automaton(wanted, 256)))


def stop_at_tokens(sequences: Sequence[Sequence[int]]) -> StopTable:
    """Make the automaton that ends a response once one of some token sequences was drawn.

    Args:
        sequences: token ids, at least one in each.

    Raises:
        ValueError: if a sequence is empty.

    Example:
        >>> table = stop_at_tokens([(3, 1)])
        >>> state = table.step(jnp.zeros(2, jnp.int32), jnp.array([3, 3]))
        >>> table.stopped(table.step(state, jnp.array([1, 9]))).tolist()
        [True, False]
    """
    if any(len(sequence) == 0 for sequence in sequences):
        raise ValueError("a stop sequence needs at least one token")
    other = max(token for sequence in sequences for token in sequence) + 1
    return _table(_automaton([list(sequence) for sequence in sequences], other + 1))


def _automaton(sequences: Sequence[Sequence[int]], symbols: int) -> np.ndarray:
    """The state after each symbol, int32 [symbols, states]; the last state is the end, which is never left."""
    children: list[dict[int, int]] = [{}]
    ends = set[int]()
    for sequence in sequences:
        at = 0
        for symbol in sequence:
            if symbol not in children[at]:
                children[at][symbol] = len(children)
                children.append({})
            at = children[at][symbol]
        ends.add(at)
    count = len(children)
    after = np.zeros((symbols, count), np.int32)
    # Breadth first: what a state falls back to lies nearer to the root, so its moves are known.
    fallback, waiting = [0] * count, [0]
    for at in waiting:
        if at:
            after[:, at] = after[:, fallback[at]]
            if fallback[at] in ends:
                ends.add(at)
        for symbol, child in children[at].items():
            fallback[child] = int(after[symbol, at]) if at else 0
            after[symbol, at] = child
            waiting.append(child)
    going = [at for at in range(count) if at not in ends]
    renamed = np.full(count, len(going), np.int32)
    renamed[going] = np.arange(len(going))
    stays = np.full((symbols, 1), len(going), np.int32)
    return np.concatenate([renamed[after[:, going]], stays], axis=1)


class _Spelled:
    """What tokens write, as a table that all of them are read from at once."""

    def __init__(self, spelled: Sequence[bytes]):
        self._lengths = np.array([len(text) for text in spelled])
        self._bytes = np.zeros((len(spelled), max(1, int(self._lengths.max()))), np.uint8)
        for row, text in zip(self._bytes, spelled, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)

    def moves(self, automaton: np.ndarray) -> np.ndarray:
        """The state after each token, int32 [V, states]."""
        state = np.tile(np.arange(automaton.shape[1], dtype=np.int32), (len(self._lengths), 1))
        for i in range(self._bytes.shape[1]):
            rows = np.flatnonzero(self._lengths > i)
            state[rows] = automaton[self._bytes[rows, i][:, None], state[rows]]
        return state


def _table(moves: np.ndarray) -> StopTable:
    different, kinds = np.unique(moves, axis=0, return_inverse=True)
    return StopTable(kinds.reshape(-1).astype(np.int32), different)


def _reachable(moves: np.ndarray) -> bool:
    """Whether some tokens lead from state 0 to the last one."""
    seen, waiting = {0}, [0]
    for at in waiting:
        new = set(np.unique(moves[:, at]).tolist()) - seen
        seen |= new
        waiting += sorted(new)
    return moves.shape[1] - 1 in seen
