"""What people said, as rows that every stage reads: a JSON object for each answer that stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_jax.compare.clips import segment_of
from rlhf_jax.compare.errors import CompareError
from rlhf_jax.compare.store import Store
from rlhf_jax.data import write_jsonl
from rlhf_jax.data.rows import prompt_field


def rows(store: Store) -> Iterator[dict[str, Any]]:
    """Make the rows of a store, a rater's answers in the order in which they were given.

    Skips and what was undone are left out, and so are hidden repeats: a rater has one vote a pair. Calibration items
    are there, as the rater answered before being told; like all golden items they name what is right, ``golden``.

    Args:
        store: what people said.

    Yields:
        Rows of ``prompt``, ``a`` and ``b`` in the store's order, ``preference`` ("a", "b" or "tie"), ``rater``,
        ``time``, ``confidence`` (a third for each degree of strength), ``source``, ``round`` and ``pair``; and
        ``both_bad``, ``golden``, ``model_a``, ``model_b``, ``segment_a`` and ``segment_b`` (whose clips were shown)
        where there is anything to say.
    """
    settings = store.settings()
    for answer in store.labels():
        if answer.verdict == "skip" or answer.kind == "repeat":
            continue
        item = store.items[answer.item]
        segments = {"segment_a": segment_of(item.clip_a), "segment_b": segment_of(item.clip_b)}
        both_bad = answer.verdict == "both_bad"
        yield {
            "prompt": prompt_field(item.prompt),
            "a": item.a,
            "b": item.b,
            "preference": "tie" if both_bad else answer.verdict,
            "rater": answer.rater,
            "time": answer.time,
            "confidence": answer.strength / 3,
            "source": "person",
            "round": settings.round,
            "pair": answer.item,
            **({"both_bad": True} if both_bad else {}),
            **({"golden": item.golden} if item.golden else {}),
            **({"model_a": item.model_a, "model_b": item.model_b} if item.model_a or item.model_b else {}),
            **(segments if any(segments.values()) else {}),
        }


def export(db: str | os.PathLike[str], to: str | os.PathLike[str]) -> int:
    """Write what people said to a .jsonl file, whole or not at all; the page may be in use meanwhile.

    Args:
        db: the store's file.
        to: the file to write; its folder is made.

    Returns:
        How many rows were written.

    Raises:
        CompareError: the file is no store, or nobody has compared anything.
    """
    found = list(rows(Store.open(db)))
    if not found:
        raise CompareError(f"{db}: nobody has compared a pair yet, so there is nothing to write")
    Path(to).parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(to, found)
    return len(found)
