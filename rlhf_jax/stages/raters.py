"""Rows of named raters become comparisons with votes: all of them, weighed, or only those of raters who stay.

What several raters said of the same responses to the same prompt is one comparison, whichever response each of them saw
first. Rows without a rater stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from rlhf_jax import feedback
from rlhf_jax.data import Comparison, DataError, LabelledResponse, RatedResponse
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.layouts.pairs import pair_votes
from rlhf_jax.data.parts import Parts
from rlhf_jax.data.raters import LabelTable, label_table, rated_pairs
from rlhf_jax.data.reading import is_golden

_NAMED = 20  # raters in a sentence


def gathered(parts: Parts, config: DataConfig) -> Parts:
    """Gather what raters said of the same responses, as ``config.raters`` says they count.

    Raters are measured on the rows to train on and on those with a known answer, which are in no part afterwards. In
    held-out rows a rater who is in none of them counts as the mean of the others, or stays.

    Args:
        parts: typed rows.
        config: where they are from.

    Returns:
        The parts, in which ``Comparison.weight`` is what a comparison counts for in the loss, 1 on average over the
        rows to train on, with notes that are said on standard error too.

    Raises:
        DataError: if raters are to be weighed or left out and rows do not name them, or nothing would be left.
    """
    golden = [*parts.golden, *(row for part in parts[:3] for row in part if is_golden(row))]
    each = [[row for row in part if not is_golden(row)] for part in parts[:3]] if golden else list(parts[:3])
    train, validation, test = each[0], each[1], each[1] if parts.test is parts.validation else each[2]
    notes: list[str] = []
    if golden:
        notes.append(
            f"{config.source}: {_rows(len(golden), 'a known answer', 'known answers')} (golden) measure raters and are "
            "neither trained on nor held out"
        )
    if config.raters == "all":
        votes: Callable[[Any], float] = lambda row: 1.0  # noqa: E731
    else:
        _check_named([*train, *validation, *test, *golden], config)
        table = label_table([*train, *golden])
        votes, more = (_weights if config.raters == "weight" else _filter)(table, config)
        notes += more
    known = {id(part): _merged(part, votes, config) for part in (train, validation, test)}
    lost = sum(lost for _, lost in known.values())
    if lost:
        notes.append(f"{config.source}: {lost:,} comparisons are left out: nobody who counts has given them")
    train, validation, test = (known[id(part)][0] for part in (train, validation, test))
    for name, part in (("to train on", train), ("held out", validation), ("for the final figures", test)):
        if not part:
            raise DataError(
                f"{config.source}: data.raters {config.raters!r} leaves no row {name}; "
                "use --data.raters all, or collect rows by other raters"
            )
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return parts._replace(
        train=_mean_one(train),
        validation=validation,
        test=test,
        notes=(*parts.notes, *notes),
        left_out=parts.left_out + len(golden) + lost,
        golden=(),
    )


def _check_named(rows: Sequence[Any], config: DataConfig) -> None:
    for row in rows:
        if isinstance(row, LabelledResponse):
            raise DataError(
                f"{row.where}: data.raters {config.raters!r} is for comparisons, rankings and ratings, and this row "
                "has a label alone; use --data.raters all"
            )
        if not _has_rater(row):
            raise DataError(
                f"{row.where}: field 'rater': expected who said this, as data.raters is {config.raters!r}, found "
                "nothing; name the raters, or use --data.raters all"
            )


def _weights(table: LabelTable, config: DataConfig) -> tuple[Callable[[Any], float], list[str]]:
    """Weigh each vote by how far its rater is right beyond chance, times how sure they were."""
    weights = dict(zip(table.raters, feedback.rater_weights(table.labels, golden=table.golden).tolist(), strict=True))
    mean = float(np.mean(list(weights.values()))) if weights else 1.0
    notes = []
    telling = feedback.telling_pairs(table.labels, table.golden)
    if not telling.any():
        notes.append(
            f"{config.source}: no pair has two raters or a golden answer, so nothing tells good raters from others: "
            "all count the same"
        )
        return (lambda row: float(row.said.confidence)), notes
    seen = (table.labels[telling] >= 0).any(0)
    if unknown := [rater for rater, known in zip(table.raters, seen, strict=True) if not known]:
        notes.append(
            f"{config.source}: {_raters(unknown)} in no pair with another rater or a known answer: weight "
            f"{weights[unknown[0]]:.2f}, the mean of the others"
        )
    each = ", ".join(f"{rater!r} {weight:.2f}" for rater, weight in list(weights.items())[:_NAMED])
    more = f", and {len(weights) - _NAMED} more" if len(weights) > _NAMED else ""
    print(f"{config.source}: what a vote weighs by its rater: {each}{more}", file=sys.stderr)
    nothing = [rater for rater, weight in weights.items() if weight == 0]
    if nothing:
        notes.append(f"{config.source}: {_raters(nothing)} right no more often than by chance: weight 0")
    return (lambda row: weights.get(row.said.rater, mean) * row.said.confidence), notes


def _filter(table: LabelTable, config: DataConfig) -> tuple[Callable[[Any], float], list[str]]:
    """Let only those raters count who agree with the golden answers, or else with the others."""
    kept = feedback.kept_raters(table.labels, table.golden, least=config.rater_agreement or None)
    out = {rater for rater, keep in zip(table.raters, kept.keep, strict=True) if not keep}
    measured = zip(table.raters, kept.by, kept.agreement, kept.n, kept.least, strict=True)
    notes = [
        f"{config.source}: rater {rater!r} is left out: agreement {share:.2f} with "
        f"{'the golden answers' if by == 'golden' else 'the majority of the others'} on {n} pairs, below {least:g}"
        for rater, by, share, n, least in measured
        if rater in out
    ]
    unknown = [rater for rater, by in zip(table.raters, kept.by, strict=True) if by == "nothing"]
    if unknown:
        notes.append(f"{config.source}: too little is known of {_names(unknown)} to leave anybody out, so they stay")
    return (lambda row: 0.0 if row.said.rater in out else 1.0), notes


def _merged(rows: Sequence[Any], votes: Callable[[Any], float], config: DataConfig) -> tuple[list[Any], int]:
    """Merge the rows of raters about the same responses, where the first of them stands; count those without a vote."""
    if config.raters == "weight":
        rows = _as_comparisons(rows)
    groups: dict[Hashable, list[Any]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(_about(row, place), []).append(row)
    said = [group if config.raters == "all" else _latest(group) for group in groups.values()]
    merged = [_one(group, [votes(row) if _has_rater(row) else 1.0 for row in group]) for group in said]
    kept = [row for row in merged if row is not None]
    return kept, len(merged) - len(kept)


def _latest(rows: Sequence[Any]) -> list[Any]:
    """What each rater said last of the same responses, which is what raters are measured by (``label_table``)."""
    last: dict[str, Any] = {}
    for row in sorted(rows, key=lambda row: -np.inf if row.said.time is None else row.said.time):
        last[row.said.rater] = row
    return [row for row in rows if last[row.said.rater] is row]


def _has_rater(row: Any) -> bool:
    return row.said is not None and bool(row.said.rater)


def _about(row: Any, place: int) -> Hashable:
    """What rows have in common that are merged; a row without a rater has it with no other."""
    if not _has_rater(row) or isinstance(row, LabelledResponse):
        return place
    if isinstance(row, RatedResponse):
        return row.prompt, row.response
    return row.prompt, tuple(sorted(row.responses))


def _one(rows: Sequence[Any], votes: Sequence[float]) -> Any:
    """One row of several about the same responses, None where none has a vote."""
    first, weight = rows[0], float(sum(votes))
    if not _has_rater(first) or isinstance(first, LabelledResponse):
        return first
    if weight <= 0:
        return None
    if isinstance(first, RatedResponse):
        given = [row.ratings for row, vote in zip(rows, votes, strict=True) if vote]
        return first._replace(ratings=np.concatenate(given), said=None)
    total = np.zeros_like(first.votes, np.float64)
    for row, vote in zip(rows, votes, strict=True):
        order = _order(row.responses, first.responses)
        total += vote * np.asarray(row.votes, np.float64)[np.ix_(order, order)]
    ordered = all(row.chosen_first and row.responses == first.responses for row in rows)
    return first._replace(votes=total.astype(np.float32), weight=weight, chosen_first=ordered, said=None)


def _order(responses: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of the wanted responses stands among those of a row."""
    own = sorted(range(len(responses)), key=lambda i: responses[i])
    places = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = dict(zip(places, own, strict=True))
    return [found[i] for i in range(len(wanted))]


def _as_comparisons(rows: Sequence[Any]) -> list[Any]:
    """Read what a rater gave several responses to a prompt as comparisons of these, which can be weighed."""
    own: dict[tuple[str, str], list[RatedResponse]] = {}
    found: list[Any] = []
    for row in rows:
        if isinstance(row, RatedResponse) and row.said is not None:
            own.setdefault((row.prompt, row.said.rater), []).append(row)
        else:
            found.append(row)
    for rated in own.values():
        for one, other in rated_pairs(rated):
            share = 0.5 + 0.5 * float(np.sign(one.ratings.mean() - other.ratings.mean()))
            sure = other.said and other.said._replace(confidence=min(_sure(one), _sure(other)))
            both = (one.response, other.response)
            found.append(Comparison(other.prompt, both, pair_votes(share), other.where, said=sure))
    return found


def _sure(row: RatedResponse) -> float:
    return 1.0 if row.said is None else row.said.confidence


def _mean_one(rows: list[Any]) -> list[Any]:
    """Scale the weights of comparisons to 1 on average, so that the learning rate means what it did."""
    weights = [row.weight for row in rows if isinstance(row, Comparison)]
    if len(weights) < len(rows) or len(set(weights)) == 1:
        return [row._replace(weight=1.0) if isinstance(row, Comparison) and row.weight != 1 else row for row in rows]
    mean = float(np.mean(weights))
    return [row._replace(weight=row.weight / mean) for row in rows]


def _rows(count: int, one: str, several: str) -> str:
    return f"{count:,} row with {one}" if count == 1 else f"{count:,} rows with {several}"


def _raters(names: Sequence[str]) -> str:
    return f"rater {_names(names)} is" if len(names) == 1 else f"raters {_names(names)} are"


def _names(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = [f"and {len(listed) - _NAMED} more"] if len(listed) > _NAMED else []
    return ", ".join([*listed[:_NAMED], *more])
