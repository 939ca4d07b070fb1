"""Data that teaches nothing, or less than its size promises: what is said of it before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.encode import EVEN
from rlhf_jax.data.packing import Example
from rlhf_jax.data.rows import PromptRow

_FEW = 0.5  # share of rows that may repeat others without a word


def repeated(rows: Sequence[Any]) -> str:
    """Say whether most rows repeat others, word for word.

    Args:
        rows: typed rows.

    Returns:
        A sentence with the counts and what to do; empty where there is nothing to say.

    Example:
        >>> repeated([PromptRow("Hi.", "a.jsonl:1"), PromptRow("Hi.", "a.jsonl:2")])[:24]
        'all 2 rows are the same:'
    """
    texts = [repr([value for name, value in row._asdict().items() if name != "where"]) for row in rows]
    different = len(set(texts))
    if len(rows) > 1 and different == 1:
        return (
            f"all {len(rows):,} rows are the same: what is held out is what is trained on, and one example is learned "
            "by heart; add other rows"
        )
    if len(rows) - different > _FEW * len(rows) and not isinstance(rows[0], PromptRow):
        return (
            f"{len(rows) - different:,} of {len(rows):,} rows repeat another row word for word; leave them out, unless "
            "they are meant to count more"
        )
    return ""


def undecided(examples: Sequence[Example]) -> str:
    """Say whether comparisons prefer anything: their votes, or ratings that give votes.

    Args:
        examples: groups with votes.

    Returns:
        A sentence where all votes are even; else empty.

    Example:
        >>> import numpy as np
        >>> tie = Example((np.array([1]), np.array([2])), (0, 0), np.array([[0, 0.5], [0.5, 0]], np.float32))
        >>> undecided([tie])
        'every comparison to train on is a tie, so there is nothing to prefer; collect opinions that differ'
    """
    voted = [example.votes for example in examples if example.votes is not None]
    if not voted or any(abs(votes - votes.T).max() > EVEN for votes in voted):
        return ""
    return "every comparison to train on is a tie, so there is nothing to prefer; collect opinions that differ"


def one_sided(examples: Sequence[Example]) -> str:
    """Say whether all labels are the same.

    Args:
        examples: responses with a label each.

    Returns:
        A sentence where they are; else empty.

    Example:
        >>> import numpy as np
        >>> one_sided([Example((np.array([1]),), (0,), labels=np.array([1.0], np.float32))] * 3)[:40]
        'all 3 labels to train on are thumbs up: '
    """
    counts = Counter(float(example.labels[0]) for example in examples if example.labels is not None)
    if len(counts) != 1:
        return ""
    label, count = counts.popitem()
    side, other = ("up", "down") if label else ("down", "up")
    return (
        f"all {count:,} labels to train on are thumbs {side}: a policy learns from the difference, so add responses "
        f"with thumbs {other}"
    )
