"""What opinions say of two responses to one prompt, whichever form they were given in, as arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.order import epoch_order
from rlhf_jax.data.parts import prompt_key
from rlhf_jax.data.rows import Comparison, LabelledResponse, RatedResponse
from rlhf_jax.stages.data_check.table import Rows

Length = Callable[[str], float]


class Pairs(NamedTuple):
    """Pairs of responses and what was said of them."""

    share: np.ndarray  # float64 [m]; what the first has of the votes
    lengths: np.ndarray  # float64 [m, 2]
    ordered: np.ndarray  # bool [m]; whether the first stood first in its row, and could have stood second
    drawn: bool  # whether pairs were drawn among rated or labelled responses


def pairs_of(data: Rows, length: Length) -> Pairs:
    """Take the pairs of comparisons, or draw some among rated or labelled responses.

    Args:
        data: the rows. All pairs of K responses are taken. Rated responses are paired within their prompt, thumbs up
            with thumbs down, each response at most once, so that pairs are independent.
        length: measures a response.

    Returns:
        The pairs, none where nobody said anything.
    """
    found: list[tuple[float, float, float, bool]] = []
    rated: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    thumbs: tuple[list[str], list[str]] = ([], [])
    for checked in data.rows:
        row = checked.row
        if isinstance(row, Comparison):
            sizes = [length(text) for text in row.responses]
            for i in range(len(sizes)):
                for j in range(i + 1, len(sizes)):
                    total = float(row.votes[i, j] + row.votes[j, i])
                    if total > 0:
                        share = float(row.votes[i, j]) / total
                        found.append((share, sizes[i], sizes[j], len(sizes) == 2 and not row.chosen_first))
        elif isinstance(row, RatedResponse):
            rated[prompt_key(row)].append((row.response, float(row.ratings.mean())))
        elif isinstance(row, LabelledResponse):
            thumbs[0 if row.label else 1].append(row.response)
    drawn = not found
    if drawn:
        for said in rated.values():
            order = epoch_order(len(said), 0, 0)
            for i, j in zip(order[::2], order[1::2], strict=False):
                (one, high), (other, low) = said[i], said[j]
                found.append((0.5 + 0.5 * float(np.sign(high - low)), length(one), length(other), False))
        for up, down in zip(*(_shuffled(texts) for texts in thumbs), strict=False):
            found.append((1.0, length(up), length(down), False))
    table = np.array(found, np.float64).reshape(-1, 4)
    return Pairs(table[:, 0], table[:, 1:3], table[:, 3] > 0, drawn)


def _shuffled(texts: list[str]) -> list[str]:
    return [texts[place] for place in epoch_order(len(texts), 0, 0)] if texts else []
