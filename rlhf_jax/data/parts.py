"""Three parts of a data set that have no prompt in common: to train on, to choose a checkpoint on, to report on.

Rows are told apart by their prompt, and near-duplicates of it count as the same: upper and lower case, the punctuation
of sentences and white space make no difference.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import Dialogue, Prompt

# White space, what ends and joins sentences, and quotation marks; brackets, signs and emoji tell prompts apart.
_PUNCTUATION = re.compile("[\\s.,;:!?\"'`\u00b4\u2018\u2019\u201c\u201d\u00ab\u00bb\u3001\u3002\u00bf\u00a1]+")
_HELD = 10  # one prompt in so many is in a part that the data set does not have itself


class Parts(NamedTuple):
    """The rows of a data set by what they are used for."""

    train: list[Any]
    validation: list[Any]  # chooses the best checkpoint
    test: list[Any]  # gives the figures that are reported
    notes: tuple[str, ...] = ()  # what a reader of these figures has to know
    left_out: int = 0  # bad rows, which are in no part


def hold_out(name: str, rows: list[Any], count: int = 2) -> list[list[Any]]:
    """Split off a tenth of the prompts with all their rows, once or twice.

    Args:
        name: names the data set in an error.
        rows: typed rows, as the functions of ``data.layouts`` give them.
        count: how many parts to split off: validation alone, or validation and test.

    Returns:
        Training rows, validation rows and with ``count`` 2 test rows, all in their order. The prompts whose SHA-256
        comes first are held out, at least one for each part, so that the choice is the same on any machine. Where all
        rows have one prompt, rows are held out in its place; where there are too few for three parts, validation and
        test rows are the same.

    Raises:
        DataError: when there are fewer than two rows.
    """
    if len(rows) < 2:
        raise DataError(f"{name}: expected at least 2 rows, one of them to be held out, found {len(rows)}")
    keys = _keys(rows)
    ranked = _ranked(keys)
    # A prompt that many rows share would make a part of its own; it is trained on, unless there are few others.
    often = {key for key, times in Counter(keys).items() if times > 2 * max(1, len(rows) // _HELD)}
    ranked = [key for key in ranked if key not in often] + [key for key in ranked if key in often]
    size = max(1, len(ranked) // _HELD)
    cuts = [set(ranked[i * size : (i + 1) * size]) for i in range(min(count, len(ranked) - 1))]
    held = [_chosen(rows, keys, cut) for cut in reversed(cuts)]
    train = _chosen(rows, keys, set(ranked).difference(*cuts))
    return [train, *held, *(held * (count - len(held)))]


def halve(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Cut what is held out into a half to choose on and a half to report on, with no prompt in both.

    Args:
        rows: typed rows.

    Returns:
        Validation and test rows: every other prompt in the order of their SHA-256. Where there is one row alone, or
        none, both are all of them.
    """
    keys = _keys(rows)
    ranked = _ranked(keys)
    if len(ranked) < 2:
        return rows, rows
    return _chosen(rows, keys, set(ranked[::2])), _chosen(rows, keys, set(ranked[1::2]))


def separate(parts: Parts) -> Parts:
    """Move rows so that no prompt is in two parts: test keeps its prompts, and validation keeps its own from training.

    Args:
        parts: as their files or splits have them.

    Returns:
        Disjoint parts, each row in its order, with a note that counts the rows that were moved. Rows stay where moving
        them would leave nothing, and the note says so.
    """
    named = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    if parts.validation is parts.test:
        return parts._replace(notes=(*parts.notes, _same(len(parts.test))))
    # Each row's key is asked for several times below.
    keys = {id(row): prompt_key(row) for rows in named.values() for row in rows}
    if len(set(keys.values())) == 1:
        return parts._replace(notes=(*parts.notes, "all rows have one prompt, so the three parts have it in common"))
    notes = list(parts.notes)
    tested = {keys[id(row)] for row in parts.test}
    if all(keys[id(row)] in tested for row in parts.validation):
        named["validation"], named["test"] = halve([*parts.test, *parts.validation])
        if named["validation"] is named["test"]:
            return parts._replace(notes=(*parts.notes, _same(len(parts.test))))
        notes.append(
            f"every prompt of the {len(parts.validation)} validation rows is a prompt of the test rows too, so both "
            "were put together and halved"
        )
    for names in (("validation", "test"), ("train", "validation", "test")):
        source, targets = names[0], names[1:]
        home = {keys[id(row)]: target for target in targets for row in named[target]}
        moving = [row for row in named[source] if keys[id(row)] in home]
        if not moving:
            continue
        where = " or ".join(targets)
        if len(moving) == len(named[source]):
            notes.append(
                f"every prompt of the {len(moving)} {source} rows is a prompt of the {where} rows too, so they stay "
                "where they are: the final figures are not figures on prompts that training never saw"
            )
            continue
        named[source] = [row for row in named[source] if keys[id(row)] not in home]
        for target in targets:
            named[target] = [*named[target], *(row for row in moving if home[keys[id(row)]] == target)]
        notes.append(
            f"{len(moving)} {source} rows were moved to the {where} rows, which have the same prompts, so that no "
            "prompt is in two parts"
        )
    return Parts(named["train"], named["validation"], named["test"], tuple(notes), parts.left_out)


def prompt_key(row: Any) -> str:
    """What rows that belong together have in common.

    Args:
        row: a typed row.

    Returns:
        Its prompt in lower case, without the punctuation of sentences and with single spaces; in a chat what comes
        before the first answer. For text without a prompt, the text.

    Example:
        >>> from rlhf_jax.data.rows import PromptRow
        >>> prompt_key(PromptRow("What is  2 + 2?", "a.jsonl:1")) == prompt_key(PromptRow("what is 2 + 2", "a.jsonl:9"))
        True
    """
    prompt: Prompt = row.messages if isinstance(row, Dialogue) else row.prompt
    if isinstance(prompt, str):
        return _plain(prompt or _text(row))
    first = next((i for i, turn in enumerate(prompt) if turn.role == "assistant"), len(prompt))
    asked = prompt[:first] or prompt  # a chat that the assistant opens is told apart by all of it
    if len(asked) == 1 and asked[0].role == "user":
        return _plain(asked[0].content)  # the same as the text alone
    return "\n".join(f"{turn.role} {_plain(turn.content)}" for turn in asked) or _plain(_text(row))


def _plain(text: str) -> str:
    words = _PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text.strip()


def _keys(rows: Sequence[Any]) -> list[str]:
    """A key for every row: its prompt; where all have the same its text; where that is the same too its place."""
    for keys in ([prompt_key(row) for row in rows], [_text(row) for row in rows]):
        if len(set(keys)) > 1:
            return keys
    return [str(place) for place in range(len(rows))]


def _text(row: Any) -> str:
    fields: Mapping[str, Any] = row._asdict()
    return repr([value for name, value in fields.items() if name not in ("where", "votes", "ratings", "label")])


def _ranked(keys: Sequence[str]) -> list[str]:
    return sorted(set(keys), key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())


def _chosen(rows: list[Any], keys: Sequence[str], wanted: set[str]) -> list[Any]:
    return [row for row, key in zip(rows, keys, strict=True) if key in wanted]


def _same(count: int) -> str:
    return (
        f"too few rows for three parts: the {count} held-out rows choose the best checkpoint and give the final "
        "figures too, so the final figures are not held out from that choice"
    )
