"""What a reward model says of pairs before people do: which it prefers, and how far its members are apart on that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_jax.compare.items import Item
from rlhf_jax.data.encode import encode
from rlhf_jax.data.rows import Demonstration
from rlhf_jax.runs.scorer import Scorer


def scored(items: Sequence[Item], scorer: Scorer) -> list[Item]:
    """Score both responses of every pair with every member of a reward model.

    Args:
        items: the pairs.
        scorer: the reward model, or an ensemble.

    Returns:
        The pairs with ``gap`` and, for an ensemble, ``spread``.

    Raises:
        RunError: when a prompt and its response are longer than what the reward model reads.
        DataError: when a chat template refuses a prompt.
    """
    texts = [Demonstration(item.prompt, text, "") for item in items for text in (item.a, item.b)]
    members = scorer.score_members([encode(text, scorer.tokenizer).tokens[0] for text in texts])
    gap, spread = disputed(members[:, ::2], members[:, 1::2])
    several = len(members) > 1
    return [
        item._replace(gap=float(gap[i]), spread=float(spread[i]) if several else None) for i, item in enumerate(items)
    ]


def disputed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean of ``s_a - s_b`` over an ensemble's members, and its standard deviation.

    Scores of two members may differ by a constant, which says nothing of the pair and is gone from the difference.

    Args:
        a: [M, n], scores of the first responses.
        b: [M, n], those of the second ones.

    Returns:
        The means and standard deviations, float64 [n]; the variance is divided by M.

    Example:
        >>> mean, spread = disputed(np.array([[1.0, 0.0], [11.0, 2.0]]), np.array([[0.0, 0.0], [10.0, 0.0]]))
        >>> mean.tolist(), spread.tolist()
        ([1.0, 1.0], [0.0, 1.0])
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return difference.mean(0), difference.std(0)
