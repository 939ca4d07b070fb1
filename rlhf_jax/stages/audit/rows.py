"""The rows of an audit: what people said of K responses to a prompt, whoever saw which of them first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import Comparison, DataError
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.best_of import choice, is_best_of
from rlhf_jax.data.layouts.fields import Row
from rlhf_jax.data.layouts.purposes import comparison
from rlhf_jax.data.one_file import list_bad
from rlhf_jax.data.rows import Prompt
from rlhf_jax.stages.evaluate.rows import NO_SUBSET, read_source, subset_of


class AuditedRow(NamedTuple):
    """K responses to a prompt, and what people said of them."""

    prompt: Prompt
    responses: tuple[str, ...]  # in an order that follows from the texts and says nothing of what people prefer
    votes: np.ndarray  # float64 [K, K], [i, j] = votes of all people that prefer i to j; 0 where nobody compared them
    subset: str  # empty where nobody asked for subsets


class AuditedRows(NamedTuple):
    """What was read."""

    rows: list[AuditedRow]  # a row for each prompt and set of responses
    said: list[Comparison]  # each person's row, for those that name the person
    left_out: int  # bad rows that were skipped


def read(source: str, by: str, on_bad_row: OnBadRow, *, split: str = "") -> AuditedRows:
    """Read what people said; what several of them said of the same responses is one row.

    Args:
        source: a file, a folder, or a data set on the hub, with pairs in any layout, rankings, or best-of-K rows.
        by: the field whose values name the subsets, dots between the names of nested ones; empty asks for none.
        on_bad_row: a bad row stops it, or is skipped and listed.
        split: the split, where the source has several.

    Returns:
        The rows, at least one.

    Raises:
        DataError: on a bad row, a source that cannot be read, and where no row has the field ``by``.
    """
    found: list[tuple[Comparison, str]] = []

    def kept(row: Row, where: str) -> None:
        one = _of_choice(row, where) if is_best_of(row) else comparison(row, where)
        found.append((one, subset_of(row, by, where) if by else ""))

    _, bad = read_source(source, split, kept, on_bad_row)
    list_bad(bad)
    if not found:
        raise DataError(f"{source}: no row compares responses; docs/evaluation.md lists what is read")
    if by and not any(subset for _, subset in found):
        raise DataError(f"{source}: no row has the field {by!r} (--by)")
    rows: dict[tuple[str, tuple[str, ...]], AuditedRow] = {}
    for one, subset in found:
        order = sorted(range(len(one.responses)), key=lambda i: _place(one, i))
        responses = tuple(one.responses[i] for i in order)
        votes = np.asarray(one.votes, np.float64)[np.ix_(order, order)]
        named = subset or (NO_SUBSET if by else "")
        before = rows.setdefault((repr(one.prompt), responses), AuditedRow(one.prompt, responses, 0 * votes, named))
        before.votes[...] += votes
    return AuditedRows(list(rows.values()), [one for one, _ in found if one.said and one.said.rater], len(bad))


def pairs_of(rows: Sequence[AuditedRow]) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of responses that people compared.

    Args:
        rows: the rows.

    Returns:
        int64 [m, 3], the row and the two responses of each pair; and float64 [m], the share for the first.
    """
    where, share = [], []
    for number, row in enumerate(rows):
        for i, j in zip(*np.triu_indices(len(row.responses), 1), strict=True):
            both = row.votes[i, j] + row.votes[j, i]
            if both > 0 and row.responses[i] != row.responses[j]:
                where.append((number, i, j))
                share.append(row.votes[i, j] / both)
    return np.array(where, np.int64).reshape(-1, 3), np.array(share, np.float64)


def _place(row: Comparison, i: int) -> bytes:
    """Say where a response comes: by a hash, as the order of the texts themselves may go with their quality."""
    return hashlib.sha256(f"{row.prompt!r}\n{row.responses[i]}".encode()).digest()


def _of_choice(row: Row, where: str) -> Comparison:
    """Read a best-of-K row as a vote for each right response against each wrong one."""
    found = choice(row, where)
    right = np.arange(len(found.responses)) < found.right
    votes = (right[:, None] & ~right[None, :]).astype(np.float32)
    return Comparison(found.prompt, found.responses, votes, where)
