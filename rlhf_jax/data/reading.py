"""The rows of a ``DataConfig``, from a file, a folder, the hub or TFDS: opened once, and cut into three parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.degenerate import repeated
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.layouts.exports import unfold_all
from rlhf_jax.data.one_file import Parse, Row, as_it_is, left_alone, list_bad, unanswered, unfolded
from rlhf_jax.data.order import evenly
from rlhf_jax.data.parts import Parts, cut, separate
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.readers.huggingface import is_huggingface
from rlhf_jax.data.readers.jsonl import collect, is_lines, read_jsonl
from rlhf_jax.data.rows import Comparison, Dialogue

# How UltraFeedback and data sets like it end the names of splits for one purpose.
IMITATE, COMPARE, ANSWER = ("_sft",), ("_prefs",), ("_prefs", "_gen", "_sft")


class Source:
    """The source of a stage's rows, which reads each file once, whatever its rows are parsed for.

    Args:
        config: names the source and what is held out.
    """

    def __init__(self, config: DataConfig):
        self._config = config
        self._read: dict[tuple[str, str], tuple[list[tuple[str, Row | DataError]], list[str]]] = {}
        self._said: set[str] = set()

    def parts(self, parse: Parse, endings: Sequence[str]) -> Parts:
        """Parse the rows for a purpose and cut them into parts that have no prompt in common.

        Args:
            parse: a function of ``rlhf_jax.data.layouts``, or any function of a row and where it stands.
            endings: what the names of splits for this purpose end with, where there is no split ``train``.

        Returns:
            Three parts, none of them empty. Bad rows that are to be skipped, and what there is to know of the parts,
            are said on standard error, each once.

        Raises:
            DataError: on a bad row, a source or split that cannot be read, and when a part is empty.
        """
        config, name = self._config, self._config.source
        named = self._named(endings)
        self._left_out = 0
        train, validation, test = (self._parsed(rows, parse) if rows else [] for rows in named)
        golden = tuple(row for part in (train, validation, test) for row in part if is_golden(row))
        if golden:
            train, validation, test = ([x for x in part if not is_golden(x)] for part in (train, validation, test))
        train, validation, test = cut(name, train, validation if named[1] else None, test if named[2] else None)
        if not (train and validation and test):
            raise DataError(
                f"{name}: {len(train)} rows to train on, {len(validation)} held out to choose the best checkpoint and "
                f"{len(test)} for the final figures; each of the three is needed"
            )
        every = repeated([*train, *validation, *(test if test is not validation else [])])
        whole = Parts(train, validation, test, (every,) if every else (), left_out=self._left_out, golden=golden)
        parts = separate(whole)
        for note in parts.notes:
            self._say(f"{name}: {note}")
        limit = config.heldout_limit
        validation = evenly(parts.validation, limit or len(parts.validation))
        test = validation if parts.test is parts.validation else evenly(parts.test, limit or len(parts.test))
        train = parts.train[: config.limit] if config.limit else parts.train
        counts = f"{len(train):,} rows to train on, {len(validation):,} to choose the best checkpoint on"
        same = "the same" if test is validation else f"{len(test):,}"
        self._say(f"{name}: {counts} and {same} for the final figures", warning=False)
        return parts._replace(train=train, validation=validation, test=test)

    def as_they_are(self, endings: Sequence[str]) -> list[tuple[list[tuple[str, Row]], list[str]] | None]:
        """Read the rows of training, validation and test as they stand, whatever they hold; exports are unfolded.

        Args:
            endings: as for ``parts``.

        Returns:
            For each part its rows, each with where it stands, and what is wrong with those that cannot be read at all;
            None for a part that is cut off another. The config has to skip bad rows.

        Raises:
            DataError: on a source or split that cannot be read.
        """
        return [
            None if at is None else unfolded(*_rows(*at, self._config), as_it_is, "skip") for at in self._named(endings)
        ]

    def text(self, parse: Parse, endings: Sequence[str]) -> Parts:
        """Parse rows to be trained on beside something else, of which nothing has to be held out.

        Args:
            parse: as for ``parts``.
            endings: as for ``parts``.

        Returns:
            All rows to train on, and none held out. Only where rows have prompts, or the config or the data set names
            parts that are held out, they are cut as ``parts`` does, and what is held out is left alone: whoever samples
            the same prompts measures with them.

        Raises:
            DataError: as for ``parts``, and when there are no rows.
        """
        config, name = self._config, self._config.source
        train, *held = self._named(endings)
        self._left_out = 0
        rows = self._parsed(train, parse) if train else []
        if held != [None, None] or any(isinstance(row, Dialogue) or row.prompt for row in rows):
            parts = self.parts(parse, endings)
            self._say(f"{name}: beside the policy's samples, only the rows to train on are used", warning=False)
            return parts
        if not rows:
            raise DataError(f"{name}: expected rows of text, found none")
        if note := repeated(rows):
            self._say(f"{name}: {note}")
        rows = rows[: config.limit] if config.limit else rows
        self._say(f"{name}: {len(rows):,} rows of text to train on", warning=False)
        return Parts(rows, [], [], left_out=self._left_out)

    def _named(self, endings: Sequence[str]) -> list[tuple[str, str] | None]:
        """Source and split of training, validation and test rows; None for a part that is cut off another."""
        config, source = self._config, self._config.source
        there = _splits(source)
        train = config.split or _training_split(source, there, endings)
        named = [self._elsewhere(field, endings) for field in ("heldout", "test")]
        if not config.heldout and not config.test:
            found = [name for part in ("validation", "test") if (name := _held_out_split(there, train, part, endings))]
            named = [(source, name) for name in found] + [None] * (2 - len(found))
        elif not config.heldout and (name := _held_out_split(there, train, "validation", endings)) != config.test:
            named[0] = (source, name) if name else None
        return [(source, train), *named]

    def _elsewhere(self, field: str, endings: Sequence[str]) -> tuple[str, str] | None:
        """Source and split of what ``data.heldout`` or ``data.test`` names."""
        source = self._config.source
        name = {"heldout": self._config.heldout, "test": self._config.test}[field]
        if not name:
            return None
        if is_lines(name) or is_huggingface(name):
            return name, _training_split(name, _splits(name), endings)
        if is_lines(source):
            raise DataError(
                f"data.{field} {name}: expected a .jsonl, .json or .parquet file or a folder beside {source}"
            )
        return source, name

    def _parsed(self, named: tuple[str, str], parse: Parse) -> list[Any]:
        config = self._config
        if named not in self._read:
            read, broken = _rows(*named, config)
            every = unfold_all(read)
            self._read[named] = (every.rows, broken)
            if every.unanswered:
                self._say(f"{named[0]}: {unanswered(every.unanswered)}", warning=False)
        found, bad = self._read[named]
        rows, more = collect(found, parse, config.on_bad_row)
        self._left_out += len(bad) + len(more)
        list_bad([row for row in (*bad, *more) if row not in self._said])
        self._said.update(bad, more)
        unread = left_alone([row for _, row in found if not isinstance(row, DataError)])
        if unread:
            self._say(f"{named[0]}: {unread}", warning=False)
        return rows

    def _say(self, text: str, *, warning: bool = True) -> None:
        if text not in self._said:
            print(f"warning: {text}" if warning else text, file=sys.stderr)
            self._said.add(text)


def is_golden(row: Any) -> bool:
    """Whether the answer was known before, so that the row says something of its rater alone.

    Args:
        row: one of the types of ``data.rows``.
    """
    return isinstance(row, Comparison) and row.said is not None and row.said.golden is not None


def _splits(source: str) -> list[str]:
    if is_lines(source):
        return ["train"]
    if is_huggingface(source):
        return huggingface.splits(source)
    from rlhf_jax.data.readers import tfds  # here, because it needs tensorflow-datasets

    return tfds.splits(source)


def _rows(source: str, split: str, config: DataConfig) -> tuple[list[tuple[str, Row]], list[str]]:
    """Rows as they stand, each with where it stands, and what is wrong with those that cannot be read at all."""
    if is_lines(source):
        return read_jsonl(source, as_it_is, config.on_bad_row)
    if is_huggingface(source):
        return huggingface.read_huggingface(source, split, as_it_is, config.on_bad_row)
    from rlhf_jax.data.readers import tfds

    return tfds.read_tfds(source, split, as_it_is, config.on_bad_row)


def _training_split(source: str, there: Sequence[str], endings: Sequence[str]) -> str:
    for name in ("train", *(f"train{ending}" for ending in endings)):
        if name in there:
            return name
    if len(there) == 1:
        return there[0]
    raise DataError(
        f"{source}: which split to train on? It has {', '.join(there)}; name one with --data.split, "
        "or --split of rlhf data check"
    )


def _held_out_split(there: Sequence[str], train: str, part: str, endings: Sequence[str]) -> str:
    """The split called ``validation`` or ``test``; empty where the data set has none that is not trained on."""
    # In TFDS one may ask for parts of several splits: train[:90%]+validation.
    taken = {name.partition("[")[0] for name in train.split("+")}
    return next((name for name in (f"{part}{e}" for e in ("", *endings)) if name in there and name not in taken), "")
