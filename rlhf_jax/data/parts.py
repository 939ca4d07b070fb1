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
    golden: tuple[Any, ...] = ()  # comparisons with a known answer, which measure raters and are in no part


def hold_out(name: str, rows: list[Any], count: int = 2) -> list[list[Any]]:
    """Split off a tenth of the rows, whole prompts with all their rows, once or twice.

    Args:
        name: names the data set in an error.
        rows: typed rows, as the functions of ``data.layouts`` give them.
        count: how many parts to split off: validation alone, or validation and test.

    Returns:
        Training rows, validation rows and with ``count`` 2 test rows, all in their order. The prompts whose SHA-256
        comes first are held out, as many as a tenth of the rows has room for, so that the choice is the same on any
        machine. A prompt with more than a quarter of the rows is trained on; where the others do not fill the parts, or
        all rows have one prompt, its rows are held out in its place. Where there are too few for three parts,
        validation and test rows are the same.

    Raises:
        DataError: when there are fewer than two rows.

    Example:
        >>> from rlhf_jax.data.rows import Demonstration
        >>> rows = [Demonstration("Say a number.", str(n), f"row {n}") for n in range(40)]
        >>> [len(part) for part in hold_out("numbers", [*rows, Demonstration("Sing.", "La.", "row 40")])]
        [33, 4, 4]
    """
    if len(rows) < 2:
        raise DataError(f"{name}: expected at least 2 rows, one of them to be held out, found {len(rows)}")
    keys = _keys(rows)
    largest = _largest(len(rows))
    big = {key for key, times in Counter(keys).items() if times > largest}
    cuts = _filled([key for key in keys if key not in big], count, len(rows))
    if len(cuts) < count:
        keys = _in_rows(rows, keys, big or set(keys), largest)
        cuts = _filled(keys, count, len(rows))
    held = [_chosen(rows, keys, cut) for cut in reversed(cuts)]
    train = _chosen(rows, keys, set(keys).difference(*cuts))
    return [train, *held, *(held * (count - len(held)))]


def cut(
    name: str, train: list[Any], validation: list[Any] | None, test: list[Any] | None
) -> tuple[list[Any], list[Any], list[Any]]:
    """Make the three parts of what a data set has: what it lacks is taken from what is held out, or from training rows.

    Args:
        name: names the data set in an error.
        train: typed rows to train on.
        validation: those held out to choose on; None where the data set has none.
        test: those held out to report on; None where the data set has none.

    Returns:
        Training, validation and test rows, which ``separate`` makes disjoint where they come from several places.

    Raises:
        DataError: when there are too few rows to take any from.
    """
    if validation is None and test is None:
        train, validation, test = hold_out(name, train)
    elif validation is None:
        train, validation = hold_out(name, train, count=1)
    elif test is None:
        validation, test = halve(validation)
    return train, validation or [], test or []


def _largest(rows: int) -> int:
    """Most rows of one prompt that a held-out part takes whole: a quarter of all, or twice the share of a part."""
    return max(2 * max(1, rows // _HELD), rows // 4)


def _filled(keys: Sequence[str], count: int, all_rows: int) -> list[set[str]]:
    """Choose the keys of each held-out part, in the order of their hashes, until it has its share of the rows.

    Args:
        keys: the key of every row that may be held out.
        count: how many parts.
        all_rows: rows of the data set, a tenth of which is a part's share, but no more than a quarter of these.

    Returns:
        The keys of each part that got some; one key at least is left to be trained on.
    """
    sizes, ranked = Counter(keys), _ranked(keys)
    share = max(1, min(all_rows // _HELD, len(keys) // 4))
    left = ranked
    cuts: list[set[str]] = []
    for _ in range(count):
        cut: set[str] = set()
        filled = 0
        for key in left:
            fits = filled + sizes[key] <= share or not cut
            # Passing over large prompts for small ones is for a part that would else be far too small.
            if filled >= share or len(left) - len(cut) <= 1 or (not fits and 2 * filled >= share):
                break
            if fits:
                cut.add(key)
                filled += sizes[key]
        if cut:
            cuts.append(cut)
        left = [key for key in left if key not in cut]
    return cuts


def halve(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Cut what is held out into a half to choose on and a half to report on, with no prompt in both.

    Args:
        rows: typed rows.

    Returns:
        Validation and test rows: each prompt in the order of their SHA-256 goes to the part with fewer rows. A prompt
        with more than half of the rows is split by rows. Where there is one row alone, or none, both are all of them.
    """
    keys = _keys(rows)
    big = {key for key, times in Counter(keys).items() if times > max(1, len(rows) // 2)}
    keys = _in_rows(rows, keys, big, max(1, len(rows) // 2))
    if len(set(keys)) < 2:
        return rows, rows
    sizes = Counter(keys)
    halves: tuple[set[str], set[str]] = (set(), set())
    filled = [0, 0]
    for key in _ranked(keys):
        part = 0 if filled[0] <= filled[1] else 1
        halves[part].add(key)
        filled[part] += sizes[key]
    return _chosen(rows, keys, halves[0]), _chosen(rows, keys, halves[1])


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
    homes: dict[str, set[str]] = {}
    for name, rows in named.items():
        for row in rows:
            homes.setdefault(keys[id(row)], set()).add(name)
    every = Counter(keys[id(row)] for rows in named.values() for row in rows)
    most = _largest(every.total())
    large = {key for key, count in every.items() if count > most and len(homes[key]) > 1}
    notes += [
        f"the prompt {_shown(key)} has {every[key]:,} of {every.total():,} rows, too many to be in one part alone, so "
        f"they stay in the {', '.join(name for name in named if name in homes[key])} rows: figures on it are not "
        "figures on a prompt that was never seen"
        for key in sorted(large)
    ]
    tested = {keys[id(row)] for row in parts.test}
    if not large and all(keys[id(row)] in tested for row in parts.validation):
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
        moved = home.keys() - large
        moving = [row for row in named[source] if keys[id(row)] in moved]
        if not moving:
            continue
        where, whole = " or ".join(targets), len(named[source])
        if 2 * len(moving) > whole:
            some = "every prompt of the" if len(moving) == whole else f"the prompt of {len(moving)} of the"
            notes.append(
                f"{some} {whole} {source} rows is a prompt of the {where} rows too, so they stay where they are: the "
                "final figures are not figures on prompts that training never saw"
            )
            continue
        gone = set(map(id, moving))
        named[source] = [row for row in named[source] if id(row) not in gone]
        for target in targets:
            named[target] = [*named[target], *(row for row in moving if home[keys[id(row)]] == target)]
        notes.append(
            f"{len(moving)} {source} rows were moved to the {where} rows, which have the same prompts, so that no "
            "prompt is in two parts"
        )
    return parts._replace(train=named["train"], validation=named["validation"], test=named["test"], notes=tuple(notes))


def _shown(key: str) -> str:
    return repr(key if len(key) <= 40 else f"{key[:37]}...")


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
        return same_but_for_form(prompt or _text(row))
    first = next((i for i, turn in enumerate(prompt) if turn.role == "assistant"), len(prompt))
    asked = prompt[:first] or prompt  # a chat that the assistant opens is told apart by all of it
    if len(asked) == 1 and asked[0].role == "user":
        return same_but_for_form(asked[0].content)  # the same as the text alone
    return "\n".join(f"{turn.role} {same_but_for_form(turn.content)}" for turn in asked) or same_but_for_form(
        _text(row)
    )


def same_but_for_form(text: str) -> str:
    """Write a text in lower case, without the punctuation of sentences and with single spaces.

    Example:
        >>> same_but_for_form("What is  2 + 2?")
        'what is 2 + 2'
    """
    words = _PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return words or text.strip()


def _keys(rows: Sequence[Any]) -> list[str]:
    """A key for every row: its prompt; where all have the same its text; where that is the same too its place."""
    for keys in ([prompt_key(row) for row in rows], [_text(row) for row in rows]):
        if len(set(keys)) > 1:
            return keys
    return [str(place) for place in range(len(rows))]


def _in_rows(rows: Sequence[Any], keys: Sequence[str], split: set[str], largest: int) -> list[str]:
    """Give every row of some prompts a key of its own: its text, or its place where too many have the same."""
    texts = [f"{key}\n{_text(row)}" if key in split else key for key, row in zip(keys, rows, strict=True)]
    times = Counter(texts)
    return [
        f"{text}\n{place}" if key in split and (times[text] > largest or len(times) == 1) else text
        for place, (key, text) in enumerate(zip(keys, texts, strict=True))
    ]


def _text(row: Any) -> str:
    fields: Mapping[str, Any] = row._asdict()
    said = ("where", "votes", "ratings", "label", "weight", "said")
    if fields.get("said") is not None and "responses" in fields:
        fields = {**fields, "responses": tuple(sorted(fields["responses"]))}  # each rater may have had another order
    return repr([value for name, value in fields.items() if name not in said])


def _ranked(keys: Sequence[str]) -> list[str]:
    return sorted(set(keys), key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())


def _chosen(rows: list[Any], keys: Sequence[str], wanted: set[str]) -> list[Any]:
    return [row for row, key in zip(rows, keys, strict=True) if key in wanted]


def _same(count: int) -> str:
    return (
        f"too few rows for three parts: the {count} held-out rows choose the best checkpoint and give the final "
        "figures too, so the final figures are not held out from that choice"
    )
