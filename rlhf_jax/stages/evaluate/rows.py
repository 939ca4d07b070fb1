"""The rows that a model is evaluated on: what people picked, the subset of each row, and benchmarks by their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data import DataError
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.best_of import Choice, choice
from rlhf_jax.data.layouts.fields import Row, bad_row, names, shown
from rlhf_jax.data.one_file import as_it_is, list_bad, unfolded
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.readers.jsonl import is_lines, read_jsonl

REWARD_BENCH, REWARD_BENCH_2 = "RewardBench", "RewardBench 2"
# Fields that only a benchmark's rows have together, beside those that are read.
_BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    REWARD_BENCH_2: ("id", "subset", "num_correct", "num_incorrect", "total_completions"),
    REWARD_BENCH: ("id", "subset", "chosen_model", "rejected_model"),
}
# Where a source has several splits; RewardBench calls what its figures are on "filtered".
_SPLITS: tuple[str, ...] = ("test", "filtered", "validation", "train")
NO_SUBSET = "(none)"


class EvaluatedRow(NamedTuple):
    """A row to evaluate on."""

    choice: Choice
    subset: str  # empty where nobody asked for subsets
    id: str = ""  # the row's own, as text; empty where it has none
    number: int = 0  # its place among all that were read; several people's rows may stand in one record
    part: str = ""  # its own field ``subset``, by which a benchmark's scores are made


class EvaluatedRows(NamedTuple):
    """What was read."""

    rows: list[EvaluatedRow]
    benchmark: str  # whose layout it is; empty where it is none's
    left_out: int  # bad rows that were skipped


def read(source: str, by: str, on_bad_row: OnBadRow, *, split: str = "", golden: bool = False) -> EvaluatedRows:
    """Read what people picked.

    Args:
        source: a file, a folder, or a data set on the hub, as a stage's ``data.source``.
        by: the field whose values name the subsets, dots between the names of nested ones; empty takes ``subset``
            where the layout is a benchmark's, and else none.
        on_bad_row: a bad row stops it, or is skipped and listed.
        split: the split, where the source has several; empty takes the first there is of ``test``, ``filtered``,
            ``validation`` and ``train``.
        golden: the known answers of golden items count, where rows have them, and not what raters said.

    Returns:
        The rows, at least one.

    Raises:
        DataError: on a bad row, a source that cannot be read, and where no row has the field ``by``.
    """
    found: list[tuple[Row, str, Choice]] = []

    def kept(row: Row, where: str) -> None:
        read_one = choice(row, where, golden=golden)
        _check_counts(row, where, read_one)
        found.append((row, where, read_one))

    _, bad = read_source(source, split, kept, on_bad_row)
    list_bad(bad)
    if not found:
        raise DataError(f"{source}: no row compares responses; docs/evaluation.md lists what is read")
    fields = set.intersection(*(set(row) for row, _, _ in found))
    benchmark = next((name for name, own in _BENCHMARKS.items() if set(own) <= fields), "")
    field = by or ("subset" if benchmark else "")
    subsets = [subset_of(row, field, where) if field else "" for row, where, _ in found]
    if field and not any(subsets):
        raise DataError(f"{source}: no row has the field {field!r} (--by); fields are {names(found[0][0])}")
    rows = [
        EvaluatedRow(
            choice=one,
            subset=subset or (NO_SUBSET if field else ""),
            id=str(row.get("id", "")),
            number=number,
            part=str(row.get("subset", "")),
        )
        for number, ((row, _, one), subset) in enumerate(zip(found, subsets, strict=True))
    ]
    return EvaluatedRows(rows, benchmark, len(bad))


def read_source(
    source: str, split: str, parse: Callable[[Row, str], Any], on_bad_row: OnBadRow
) -> tuple[list[Any], list[str]]:
    """Read every row of one split; the records of labelling tools are unfolded to one row a person.

    Args:
        source: a file, a folder, or a data set on the hub.
        split: as for ``read``.
        parse: a function of a row and where it stands.
        on_bad_row: a bad row stops it, or is skipped and listed.

    Returns:
        What was made of the good rows, and what is wrong with those that were left out.

    Raises:
        DataError: on a bad row, and a source or a split that cannot be read.
    """
    if is_lines(source):
        if split:
            raise DataError(f"{source}: a file of lines has no splits, so leave --split {split} out")
        return unfolded(*read_jsonl(source, as_it_is, on_bad_row), parse, on_bad_row)
    there = huggingface.splits(source)
    named = split or (there[0] if len(there) == 1 else next((name for name in _SPLITS if name in there), ""))
    if named not in there:
        found = f"there is no split {split!r}; it has" if split else "which split? It has"
        raise DataError(f"{source}: {found} {', '.join(there)}; name one with --split")
    return unfolded(*huggingface.read_huggingface(source, named, as_it_is, on_bad_row), parse, on_bad_row)


def subset_of(row: Row, field: str, where: str) -> str:
    """Take the value of a field that names a row's subset.

    Args:
        row: the fields.
        field: its name, dots between the names of nested ones; a field whose own name has the dot is taken first.
        where: where the row stands.

    Returns:
        The value as text, empty where the row has none.

    Raises:
        DataError: if it is neither a text, a number nor a truth value.

    Example:
        >>> subset_of({"meta": {"kind": "code", "n": 3}}, "meta.kind", "rows.jsonl:1")
        'code'
    """
    value: Any = row
    if field in row:
        value = row[field]
    else:
        for name in field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise bad_row(where, f"field '{field}' (--by)", "a text or a number, which names a subset", shown(value))
    return str(value)


def _check_counts(row: Row, where: str, found: Choice) -> None:
    """Refuse a row that says how many of its responses are right, and has others."""
    said = row.get("num_correct")
    if isinstance(said, int) and isinstance(row.get("chosen"), Sequence) and found.right and said != found.right:
        raise bad_row(where, "field 'num_correct'", f"{found.right}, as many as 'chosen' has", str(said))
