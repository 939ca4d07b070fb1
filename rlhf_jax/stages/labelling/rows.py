"""From a judge's verdicts to rows: one for every two responses that it has voted on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.rows import Prompt, prompt_field
from rlhf_jax.feedback.judges import Verdicts
from rlhf_jax.stages.labelling.groups import Group

_DIGITS = 6  # the last bits of a float32 are the machine's and not the judge's


class Drawn(NamedTuple):
    """Principles, one of which a judge draws for each prompt."""

    name: Callable[[Prompt], str]  # which one
    digest: str  # hash of the whole file's


def rows_of(
    groups: Sequence[Group], said: Verdicts, *, rater: str, time: str, round: int, principles: Drawn | None = None
) -> Iterator[dict[str, Any]]:
    """Make the rows of some groups; a pair that the judge abstained on gives none.

    Args:
        groups: B groups of K responses.
        said: what the judge says of them.
        rater: what the rows call it.
        time: when it said so, in ISO 8601.
        round: which round of collecting this is.
        principles: where a principle says by what a pair is compared; ``source`` is then ``principle``.

    Yields:
        Rows of ``prompt``, ``a``, ``b``, ``preference`` (the share for a), ``rater``, ``time``, ``source``, ``round``
        and ``pair``; ``shown_first`` and ``shown_second``, the share for a in either place, where the judge reads pairs
        in an order; ``score_a`` and ``score_b`` where it scores; ``principle``, a name, and ``principles``, the hash of
        all of them; ``model_a`` and ``model_b`` where they are known.

    Example:
        >>> group = Group("Hi.", ("Hello!", "No."), ("", ""))
        >>> said = Verdicts(np.array([[[0, 0.75], [0.25, 0]]]))
        >>> [row["preference"] for row in rows_of([group], said, rater="it", time="", round=0)]
        [0.75]
    """
    for at, group in enumerate(groups):
        for i, j, pair in group.pairs():
            share = said.votes[at, i, j]
            if np.isnan(share):
                continue
            row = {
                "prompt": prompt_field(group.prompt),
                "a": pair.a,
                "b": pair.b,
                "preference": _digits(share),
                "rater": rater,
                "time": time,
                "source": "judge" if principles is None else "principle",
                "round": round,
                "pair": pair.id,
            }
            if said.shown is not None and np.isfinite(both := (said.shown[at, i, j], 1 - said.shown[at, j, i])).all():
                row |= {"shown_first": _digits(both[0]), "shown_second": _digits(both[1])}
            if principles is not None:
                row |= {"principle": principles.name(group.prompt), "principles": principles.digest}
            if said.scores is not None:
                row |= {"score_a": _digits(said.scores[at, i]), "score_b": _digits(said.scores[at, j])}
            yield row | ({"model_a": pair.model_a, "model_b": pair.model_b} if pair.model_a or pair.model_b else {})


def _digits(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")
