"""From a ``DataConfig`` to its task, and to the rows that a stage reads of it: demonstrations, prompts, plain text."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax import data, processes
from rlhf_jax.data import Comparison, DataError, Demonstration, Example, Tokenizer, layouts
from rlhf_jax.data.config import HUMAN_SENTIMENT, DataConfig
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.data.encoded import Encoded, in_shares
from rlhf_jax.data.one_file import list_bad
from rlhf_jax.data.parts import Parts, prompt_key
from rlhf_jax.data.reading import ANSWER, COMPARE, IMITATE, Source
from rlhf_jax.data.rows import Dialogue, LabelledResponse, texts_of
from rlhf_jax.runs import folder
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.user_code import load_named
from rlhf_jax.stages import human_sentiment
from rlhf_jax.stages.task import Task, remembering


def find_task(config: DataConfig) -> Task:
    """Find the task of a data set: the quickstart's, one that a user wrote, or one that reads anybody's rows.

    A stage calls it once for each ``DataConfig``, so that each file behind it is read once, whatever its rows are for.

    Raises:
        RunError: when ``source`` names a Python file that has no such task.
    """
    source = config.source
    if not source.strip():
        raise RunError("data.source is empty: name a file, a folder or a data set (docs/data.md lists what is read)")
    if source == HUMAN_SENTIMENT:
        return remembering(human_sentiment.TASK)
    if ".py:" in source:
        for name, value in (("split", config.split), ("heldout", config.heldout), ("test", config.test)):
            if value:
                raise RunError(f"data.{name} {value}: a task of your own cuts its parts itself; leave it empty")
        return remembering(load_named(source, f"data.source {source}", Task, "stages.Task"))
    rows = Source(config)
    imitated = layouts.text if config.templated else layouts.demonstration  # a whole chat may be one text
    task = Task(
        demonstrations=lambda _: rows.parts(imitated, IMITATE),
        prompts=lambda _: rows.parts(layouts.prompt, ANSWER),
        opinions=lambda _: rows.parts(layouts.judged, COMPARE),
        text=lambda _: rows.text(layouts.text, IMITATE),
    )
    return remembering(task)


def demonstrations(config: DataConfig, task: Task | None = None) -> Parts:
    """Read what there is to imitate: responses to prompts, and the assistant's turns of chats."""
    return (task or find_task(config)).asked("demonstrations", config.source)(config)


def encode_demonstrations(
    rows: Sequence[Demonstration | Dialogue], tokenizer: Tokenizer, config: DataConfig, task: Task | None = None
) -> list[Example]:
    """Encode demonstrations as token sequences; one that is too long is a bad row."""
    return encode_usable(rows, tokenizer, config, task or find_task(config))[1]


def prompts(config: DataConfig, task: Task | None = None) -> Parts:
    """Read prompts to be answered."""
    return (task or find_task(config)).asked("prompts", config.source)(config)


def pretraining_text(config: DataConfig) -> list[Demonstration | Dialogue]:
    """Read text to keep a policy's language by: rows of ``text``, or whatever ``demonstrations`` reads.

    All of what is text alone is used; rows with prompts that would be held out elsewhere are not.
    """
    return find_task(config).asked("text", config.source)(config).train


def tokenizer(directory: Path, rows: Sequence[Demonstration | Dialogue], vocab_size: int) -> Tokenizer:
    """Load the run folder's tokenizer, or train one on these rows where there is none yet; nothing is written."""
    path = directory / "tokenizer.json"

    def found_or_trained() -> Tokenizer:
        if path.exists() and folder.binds(directory):
            return Tokenizer.load(path)
        return data.train_tokenizer((text for row in rows for text in texts_of(row)), vocab_size)

    if not processes.several():
        return found_or_trained()
    return Tokenizer.from_json(processes.from_first(lambda: found_or_trained().to_json(), f"{path}"))


def encode_usable(
    rows: Sequence[Any], tokenizer: Tokenizer, config: DataConfig, task: Task
) -> tuple[list[Any], list[Example]]:
    """Encode rows, and return those that are short enough with their token sequences.

    A row that is too long is a bad row, unless the task says that such rows are left out.
    """
    ours = task.leaves_out_long
    tokenizer = for_rows(rows, tokenizer, config)

    def encode(some: Sequence[Any]) -> Encoded:
        found: Encoded = ([], [], [])
        for i, row in enumerate(some):
            whole = isinstance(row, Comparison | Dialogue | LabelledResponse)
            text = row if whole else Demonstration(row.prompt, row.response, row.where)
            made, bad = data.encode_rows(
                [text], tokenizer, length=config.max_length, on_bad_row="skip" if ours else config.on_bad_row
            )
            for to, new in zip(found, ([i] * len(made), made, bad), strict=True):
                to += new
        return found

    places, examples, left_out = in_shares(rows, encode, config.source)
    kept = [rows[i] for i in places]
    if not ours:
        list_bad(left_out)
    if not examples:
        raise DataError(f"{config.source}: no usable row is left of {len(rows)}")
    return kept, examples


def for_rows(rows: Sequence[Any], tokenizer: Tokenizer, config: DataConfig) -> Tokenizer:
    """Choose how texts are read: with the chat template applied already, or as what somebody said.

    Args:
        rows: typed rows. Where they look as if the template had been applied and the config does not say so, their
            number is said on standard error.
        tokenizer: the policy's.
        config: where the rows are from.

    Returns:
        The tokenizer to encode them with.
    """
    if config.templated:
        return tokenizer.templated()
    if said := spelled(rows, tokenizer):
        print(f"warning: {config.source}: {said}, pass --data.templated", file=sys.stderr)
    return tokenizer


def spelled(rows: Sequence[Any], tokenizer: Tokenizer) -> str:
    """Say how many rows spell special tokens, as texts do in which the chat template has been applied already.

    Args:
        rows: typed rows.
        tokenizer: the policy's.

    Returns:
        A sentence that the remedy completes; empty where there are none.
    """
    found = [next(filter(None, map(tokenizer.spells, texts_of(row))), "") for row in rows]
    count = sum(map(bool, found))
    if not count:
        return ""
    return (
        f"{count:,} of {len(rows):,} rows spell special tokens ({next(filter(None, found))!r}), which are text here, "
        "character by character; where the chat template has been applied to them already"
    )


def without(rows: Parts, trained: Collection[str]) -> Parts:
    """Leave out the held-out prompts that another data set of the stage trains on.

    Args:
        rows: prompts.
        trained: keys of the prompts that are trained on, ``data.parts.prompt_key``.

    Returns:
        The rows, with a note that counts what was left out; it is said on standard error too. Rows of a part stay where
        nothing would be left of it.
    """
    kept, notes = {}, []
    for part, held in (("validation", rows.validation), ("test", rows.test)):
        unseen = [row for row in held if prompt_key(row) not in trained]
        kept[part] = unseen or held
        if not unseen:
            notes.append(f"every {part} prompt is one of those that are trained on: figures on them are not held out")
        elif len(unseen) < len(held):
            notes.append(f"{len(held) - len(unseen)} {part} prompts are left out, because they are trained on")
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return Parts(rows.train, kept["validation"], kept["test"], (*rows.notes, *notes), rows.left_out)


def prompts_to_sample(
    rows: Parts,
    parts: Sequence[str],
    tokenizer: Tokenizer,
    config: DataConfig,
    task: Task,
    *,
    max_prompt_length: int,
) -> list[list[EncodedPrompt]]:
    """Encode prompts to be sampled from.

    Args:
        rows: from ``prompts``.
        parts: which of them, ``train``, ``validation`` or ``test``.
        tokenizer: the policy's.
        config: where the rows are from, and how long they may be.
        task: the data set's.
        max_prompt_length: in tokens; 0 allows as many as the data config.

    Returns:
        The prompts of each part, numbered within it.

    Raises:
        DataError: on a prompt that is too long, and when a part has no usable one.
    """
    named = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    return [_encoded_prompts(named[part], config, tokenizer, max_prompt_length, task) for part in parts]


def counted(left_out: int, rows: Sequence[Sequence[Any]], kept: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Count the rows of a stage for its summary.

    Args:
        left_out: rows that could not be read.
        rows: the rows to train on, to choose a checkpoint on and to report on; the last two may be the same.
        kept: those of each part that are used, which fit.

    Returns:
        ``trained``, ``held_out``, ``test`` and ``left_out``.

    Example:
        >>> held = [1, 2]
        >>> counted(1, [[1, 2, 3], held, held], [[1, 2], [1], [1]])
        {'trained': 2, 'held_out': 1, 'test': 1, 'left_out': 3}
    """
    parts = range(2 if len(rows) > 2 and rows[1] is rows[2] else len(rows))
    lost = sum(len(rows[i]) - len(kept[i]) for i in parts)
    names = ("trained", "held_out", "test")
    return {name: len(part) for name, part in zip(names, kept, strict=False)} | {"left_out": left_out + lost}


def _encoded_prompts(
    rows: Sequence[Any], config: DataConfig, tokenizer: Tokenizer, max_prompt_length: int, task: Task
) -> list[EncodedPrompt]:
    tokenizer = for_rows(rows, tokenizer, config)

    def encode(some: Sequence[Any]) -> Encoded:
        prompts, places, bad = data.encode_prompts(
            some,
            tokenizer,
            length=max_prompt_length or config.max_length,
            on_bad_row="skip" if task.leaves_out_long else config.on_bad_row,
        )
        return places, [Example((prompt,), (0,)) for prompt in prompts], bad

    kept, encoded, bad = in_shares(rows, encode, config.source)
    if not task.leaves_out_long:
        list_bad(bad)
    if not encoded:
        raise DataError(f"{config.source}: none of {len(rows)} prompts is usable")
    return [
        EncodedPrompt(data.prompt_text(rows[i].prompt), one.tokens[0], i) for i, one in zip(kept, encoded, strict=True)
    ]
