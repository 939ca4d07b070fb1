"""Files of tasks: text whose perplexity is measured, questions with choices, and questions with an exact answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_jax.data import DataError, layouts
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.layouts.best_of import choice, is_best_of
from rlhf_jax.data.layouts.fields import Row, bad_row, checked_text, names, shown, text_of
from rlhf_jax.data.one_file import as_it_is, list_bad
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.readers.jsonl import collect, is_lines, read_jsonl
from rlhf_jax.data.rows import Prompt, prompt_text

Kind = Literal["perplexity", "multiple choice", "exact match"]


class TaskRow(NamedTuple):
    """A row of a task."""

    prompt: Prompt  # of text what stands before it, which is not predicted; often empty
    texts: tuple[str, ...]  # the text; the choices; or the answers that are right
    right: tuple[int, ...]  # which choices are right; empty for the other kinds
    stop: tuple[str, ...]  # what ends an exact answer beside the end token
    where: str


class TaskFile(NamedTuple):
    """A task: rows of one kind under a name."""

    name: str
    kind: Kind
    rows: list[TaskRow]
    left_out: int  # bad rows that were skipped

    @property
    def groups(self) -> list[str]:
        """What the rows are about, by which they are resampled: texts, or the prompts of questions."""
        return [row.texts[0] if self.kind == "perplexity" else prompt_text(row.prompt) for row in self.rows]


def task_row(row: Row, where: str) -> tuple[Kind, TaskRow]:
    """Read a row of a task; its fields say which kind it is of.

    ``text`` is text, after a ``prompt`` where there is one. ``prompt`` with ``choices`` and ``answer`` (a choice's
    place from 0, or its text) is a question with choices, and so is a best-of-K row. ``prompt`` and ``answer``, a text
    or several of which each is right, ask for an exact answer, which ``stop``, a text or several, ends.

    Args:
        row: the fields.
        where: where the row stands.

    Returns:
        The kind, and the row.

    Raises:
        DataError: if it is none of these, or a field is bad.

    Example:
        >>> kind, found = task_row({"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}, "sums.jsonl:1")
        >>> kind, found.texts, found.right
        ('multiple choice', ('3', '4'), (1,))
    """
    if "choices" in row:
        return "multiple choice", _choices(row, where)
    if is_best_of(row):
        found = choice(row, where)
        return "multiple choice", TaskRow(found.prompt, found.responses, tuple(range(found.right)), (), where)
    if "answer" in row:
        answers = _texts(row["answer"], "answer", where)
        stop = _texts(row["stop"], "stop", where, spaces=True) if "stop" in row else ()
        return "exact match", TaskRow(_prompt(row, where), answers, (), stop, where)
    if "text" in row:
        before = _prompt(row, where) if "prompt" in row else ""
        return "perplexity", TaskRow(before, (text_of(row, "text", where),), (), (), where)
    expected = "'text', with or without 'prompt'; 'prompt', 'choices' and 'answer'; or 'prompt' and 'answer'"
    raise bad_row(where, "fields", expected, names(row) or "none")


def read_tasks(files: Sequence[str], on_bad_row: OnBadRow = "error") -> list[TaskFile]:
    """Read the files of tasks.

    Args:
        files: ``FILE`` or ``NAME=FILE`` each; without a name a task is called as its file is, without its ending.
        on_bad_row: a bad row stops it, or is skipped and listed.

    Returns:
        The tasks, in the order of the files.

    Raises:
        DataError: on a bad row, a file that cannot be read or is of several kinds, and two tasks of one name.
    """
    tasks: list[TaskFile] = []
    for name, file in named_files(files).items():
        if is_lines(file) or not huggingface.is_huggingface(file):
            read, broken = read_jsonl(file, as_it_is, on_bad_row)
        else:
            read, broken = huggingface.read_huggingface(file, "train", as_it_is, on_bad_row)
        found, bad = collect(read, task_row, on_bad_row)
        list_bad([*broken, *bad])
        if not found:
            raise DataError(f"{file}: no row of a task; docs/evaluation.md lists what is read")
        kind = found[0][0]
        other = next(((k, row) for k, row in found if k != kind), None)
        if other:
            raise DataError(
                f"{other[1].where}: a row of {other[0]}, where {found[0][1].where} is one of {kind}: put each kind "
                "into a file of its own"
            )
        tasks.append(TaskFile(name, kind, [row for _, row in found], len(broken) + len(bad)))
    return tasks


def named_files(files: Sequence[str]) -> dict[str, str]:
    """Take what each task's file is by the task's name.

    Args:
        files: as for ``read_tasks``.

    Returns:
        Files by name.

    Raises:
        DataError: if two tasks have one name, or a name is no name.

    Example:
        >>> named_files(["data/wiki.jsonl", "sums=data/train.jsonl"])
        {'wiki': 'data/wiki.jsonl', 'sums': 'data/train.jsonl'}
    """
    found: dict[str, str] = {}
    for text in files:
        given = _NAMED.match(text)
        file = text[given.end() :] if given else text
        name = given[1] if given else Path(file).name.split(".")[0]
        if not re.fullmatch(r"[\w.-]+", name):
            raise DataError(f"task {text}: the name {name!r} must have letters, digits, dots, dashes or underscores")
        if name in found:
            raise DataError(f"two tasks are called {name}, {found[name]} and {file}: name one of them, NAME=FILE")
        found[name] = file
    return found


_NAMED = re.compile(r"([^=/\\:.]+)=")  # no path begins so


def _choices(row: Row, where: str) -> TaskRow:
    texts = _texts(row["choices"], "choices", where)
    answer = row.get("answer")
    if isinstance(answer, str) and texts.count(answer) == 1:
        answer = texts.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(texts):
        expected = f"the place of a choice, from 0 to {len(texts) - 1}, or the text of one"
        raise bad_row(where, "field 'answer'", expected, shown(answer))
    if len(texts) < 2:
        raise bad_row(where, "field 'choices'", "at least two", "one")
    return TaskRow(_prompt(row, where), texts, (answer,), (), where)


def _prompt(row: Row, where: str) -> Prompt:
    return layouts.prompt({"prompt": row["prompt"]} if "prompt" in row else row, where).prompt


def _texts(value: object, field: str, where: str, *, spaces: bool = False) -> tuple[str, ...]:
    """Take a text or a list of them; those that stop may be white space."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not texts:
        raise bad_row(where, f"field '{field}'", "a text, or a list of texts", shown(value))
    if spaces and all(isinstance(text, str) and text for text in texts):
        return tuple(texts)
    return tuple(checked_text(text, field, where) for text in texts)
