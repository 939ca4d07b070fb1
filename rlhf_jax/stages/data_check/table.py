"""The rows that are checked: read in any layout from any source that a stage reads, whatever kind each is of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf_jax.data.config import HUMAN_SENTIMENT, DataConfig
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.layouts.best_of import is_best_of
from rlhf_jax.data.layouts.parse import parse_prompt
from rlhf_jax.data.layouts.table import read_row
from rlhf_jax.data.one_file import left_alone
from rlhf_jax.data.parts import Parts, cut, separate
from rlhf_jax.data.reading import ANSWER, COMPARE, Source, is_golden
from rlhf_jax.data.rows import (
    Comparison,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Prompt,
    PromptRow,
    Provenance,
    RatedResponse,
    assistants,
    prompt_text,
)
from rlhf_jax.stages.sources import find_task

Row = Comparison | Demonstration | Dialogue | LabelledResponse | PromptRow | RatedResponse
PARTS = ("train", "validation", "test")
_KINDS = {
    Comparison: "comparisons",
    LabelledResponse: "labelled responses",
    RatedResponse: "rated responses",
    Demonstration: "demonstrations",
    Dialogue: "demonstrations",
    PromptRow: "prompts",
}


class Checked(NamedTuple):
    """One good row, as a stage would read it."""

    row: Any  # one of the types of ``data.rows``
    kind: str
    layout: str
    part: str  # "train" where the file is the source itself, else the part that another file is named for
    fields: Mapping[str, Any]  # the row as it came; empty where only its type is known

    @property
    def where(self) -> str:
        """The file and line."""
        return str(self.row.where)


class Rows(NamedTuple):
    """All rows of a check, and the parts that a stage would cut them into."""

    source: str
    rows: list[Checked]
    bad: list[str]
    parts: Parts | None  # None where there are too few rows to cut
    unread: str = ""  # fields that mean nothing here
    of_task: bool = False  # whether a task has read them, which cuts its parts itself
    best_of: tuple[str, ...] = ()  # where best-of-K rows stand, which are for evaluation alone


def read(config: DataConfig) -> Rows:
    """Read the rows of a source, and of the files that are held out, and cut them into parts as a stage does.

    Args:
        config: names the source, and what is held out.

    Returns:
        Good rows with their kinds, and what is wrong with the bad ones.

    Raises:
        DataError: when the source cannot be read at all.
        RunError: when a task of one's own cannot be loaded.
    """
    if config.source == HUMAN_SENTIMENT or ".py:" in config.source:
        return _of_task(config)
    config = dataclasses.replace(config, on_bad_row="skip")
    read_parts = Source(config).as_they_are((*COMPARE, *ANSWER))
    rows: list[Checked] = []
    bad: list[str] = []
    best_of: list[str] = []
    typed: list[list[Row] | None] = []
    for part, found in zip(PARTS, read_parts, strict=True):
        if found is None:
            typed.append(None)
            continue
        bad += found[1]
        good = []
        for where, fields in found[0]:
            if is_best_of(fields):
                best_of.append(where)
                continue
            try:
                row, layout = read_row(fields, where, parse_prompt, answered=False)
            except DataError as error:
                bad.append(str(error))
                continue
            if not is_golden(row):  # which is in no part
                good.append(row)
            rows.append(Checked(row, kind_of(row, layout.gives), layout.name, part, fields))
        typed.append(good)
    unread = left_alone([row.fields for row in rows])
    return Rows(config.source, rows, bad, _parts(config.source, typed), unread, best_of=tuple(best_of))


def kind_of(row: Any, gives: str = "") -> str:
    """Say what a typed row is good for.

    Args:
        row: one of the types of ``data.rows``.
        gives: what its layout is said to give; text without a prompt is "text".

    Example:
        >>> kind_of(PromptRow("Hi.", "a.jsonl:1"))
        'prompts'
    """
    if isinstance(row, Dialogue) and not assistants(row.messages):
        return "prompts"
    return "text" if gives == "text" else _KINDS[type(row)]


def asked(row: Any) -> str:
    """Write what a row asks as one text: its prompt, or the turns before the assistant's last one.

    Example:
        >>> asked(Demonstration("Hi.", "Hello!", "a.jsonl:1"))
        'Hi.'
    """
    if isinstance(row, Dialogue):
        last = max(assistants(row.messages), default=len(row.messages))
        turns: Prompt = row.messages[:last]
        return prompt_text(turns) if turns else ""
    return prompt_text(row.prompt)


def answers(row: Any) -> tuple[str, ...]:
    """List the responses of a row; for a chat the assistant's turns.

    Example:
        >>> answers(Demonstration("Hi.", "Hello!", "a.jsonl:1"))
        ('Hello!',)
    """
    if isinstance(row, Comparison):
        return row.responses
    if isinstance(row, Dialogue):
        return tuple(row.messages[place].content for place in assistants(row.messages))
    return () if isinstance(row, PromptRow) else (row.response,)


def said_by(row: Any) -> Provenance | None:
    """Who said what a row says of responses, and when; None where the row does not tell, or says nothing of any.

    Example:
        >>> said_by(PromptRow("Hi.", "a.jsonl:1")) is None
        True
    """
    return row.said if isinstance(row, Comparison | LabelledResponse | RatedResponse) else None


def rater_of(row: Any) -> str:
    """Name who said what a row says; empty where the row does not.

    Example:
        >>> rater_of(PromptRow("Hi.", "a.jsonl:1"))
        ''
    """
    said = said_by(row)
    return "" if said is None else said.rater


def _parts(source: str, typed: list[list[Row] | None]) -> Parts | None:
    train, validation, test = typed
    if len(train or []) < 2:
        return None
    return separate(Parts(*cut(source, train or [], validation, test)))


def _of_task(config: DataConfig) -> Rows:
    """Read the rows of a task, which cuts its parts itself."""
    task = find_task(config)
    reader = task.opinions or task.demonstrations or task.prompts
    if reader is None:
        raise DataError(f"{config.source}: the task has neither opinions nor demonstrations nor prompts to check")
    parts = reader(config)
    rows = [
        Checked(row, kind_of(row), "a task's own", name, {})
        for name, part in zip(PARTS, parts[:3], strict=True)
        for row in part
    ]
    return Rows(config.source, rows, [], parts, of_task=True)
