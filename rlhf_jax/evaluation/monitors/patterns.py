"""What a response's form may consist of: runs of words, openings, lists, and saying the same again.

Words are told apart by spaces and punctuation; a sign of punctuation is a word of its own, and so is a character of a
script that is written without spaces. Upper and lower case are one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["words", "opening", "bullets", "numbered list", "headings", "repetition", "empty"]

LONGEST = 4  # words in a run or an opening
# A response repeats itself where so many of its runs of three words stood in it before; ordinary prose has few.
REPEATS = 0.2
# Fewer words than this are too few to speak of repetition.
FEWEST_WORDS = 8

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+(?:['\u2019][^\W_]+)*|[^\w\s]|_")
_LISTS: dict[Kind, re.Pattern[str]] = {
    "bullets": re.compile(r"^[ \t]*[-*+\u2022\u2023\u2013][ \t]+(?=\S)", re.MULTILINE),
    "numbered list": re.compile(r"^[ \t]*\(?\d{1,3}[.)][ \t]+(?=\S)", re.MULTILINE),
    "headings": re.compile(r"^(?:[ \t]*#{1,6}[ \t]+(?=\S)|[ \t]*\*\*[^*\n]+\*\*:?[ \t]*$)", re.MULTILINE),
}
_FEWEST_LINES = {"bullets": 2, "numbered list": 2, "headings": 1}


class Pattern(NamedTuple):
    """Something that a response either holds or does not."""

    kind: Kind
    text: str  # the words, with a space between them; empty where the kind says it all


class Occurrences(NamedTuple):
    """Which responses hold which patterns: two arrays of equal length, and the patterns that they point to."""

    pattern: np.ndarray  # int [m], places in ``patterns``
    response: np.ndarray  # int [m]
    patterns: list[Pattern]


def words_of(text: str) -> list[str]:
    """Split a text into words, in lower case.

    Example:
        >>> words_of("As an AI, I can't.")
        ['as', 'an', 'ai', ',', 'i', "can't", '.']
    """
    return _WORD.findall(text.lower())


def repeated(words: Sequence[str], n: int = 3) -> float:
    """Compute the share of a response's runs of n words that stood in the same response before.

    Args:
        words: the response.
        n: words in a run.

    Returns:
        A number in [0, 1); 0 where there are fewer than ``FEWEST_WORDS`` words.

    Example:
        >>> repeated("so good so good so good so good".split())  # six runs, two of which are new
        0.6666666666666667
    """
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if len(words) >= FEWEST_WORDS else 0.0


def forms(text: str, words: Sequence[str]) -> list[Pattern]:
    """List the patterns of a response that are no run of words: its openings, its lists, repetition, that it is empty.

    Args:
        text: the response.
        words: the same as ``words_of`` splits it.

    Example:
        >>> [pattern.text or pattern.kind for pattern in forms("- one\\n- two", ["-", "one", "-", "two"])]
        ['-', '- one', '- one -', '- one - two', 'bullets']
    """
    found = [Pattern("opening", " ".join(words[:n])) for n in range(1, min(LONGEST, len(words)) + 1)]
    found += [Pattern(kind, "") for kind, line in _LISTS.items() if len(line.findall(text)) >= _FEWEST_LINES[kind]]
    found += [Pattern("empty", "")] * (not words)
    return found + [Pattern("repetition", "")] * (repeated(words) >= REPEATS)


def occurrences(texts: Sequence[str], split: Sequence[Sequence[str]], *, fewest: int) -> Occurrences:
    """Find all patterns that so many responses hold; a response counts once, however often it holds one.

    Runs of n words are looked for only where their first n - 1 words and their last word are frequent too, as no
    others can be.

    Args:
        texts: the responses.
        split: their words, as ``words_of`` splits them.
        fewest: responses that must hold a pattern.

    Returns:
        The patterns, and who holds them.

    Example:
        >>> texts = ["as an ai", "an ai", "no"]
        >>> found = occurrences(texts, [words_of(text) for text in texts], fewest=2)
        >>> [pattern.text for pattern in found.patterns]
        ['an', 'ai', 'an ai']
    """
    patterns, kept = _runs(split, fewest, LONGEST)
    holders: dict[Pattern, list[int]] = {}
    for i, (text, words) in enumerate(zip(texts, split, strict=True)):
        for pattern in forms(text, words):
            holders.setdefault(pattern, []).append(i)
    for pattern, held_by in holders.items():
        if len(held_by) >= fewest:
            kept.append((np.full(len(held_by), len(patterns)), np.array(held_by)))
            patterns.append(pattern)
    if not patterns:
        return Occurrences(np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    which, response = (np.concatenate(x) for x in zip(*kept, strict=True))
    return Occurrences(which, response, patterns)


def spans(text: str, pattern: Pattern) -> list[tuple[int, int]]:
    """Find where a text holds a pattern, as places of its characters, in their order.

    Args:
        text: a response.
        pattern: what to look for.

    Returns:
        (start, end) of each occurrence; none overlaps another. Repetition is every word of a run that stood in the
        text before.

    Example:
        >>> spans("Yes. As an AI, no; as an AI", Pattern("words", "as an ai"))
        [(5, 13), (19, 27)]
    """
    if pattern.kind in _LISTS:
        return [match.span() for match in _LISTS[pattern.kind].finditer(text)]
    if pattern.kind == "empty":
        return [(0, len(text))] if not text.strip() else []
    # Lower case may be longer than what it is of; the case is then left as it is.
    lowered = text.lower() if len(text.lower()) == len(text) else text
    places = [match.span() for match in _WORD.finditer(lowered)]
    words = [lowered[start:end] for start, end in places]
    if pattern.kind == "repetition":
        runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
        marked = {i + k for i, run in enumerate(runs) if run in runs[:i] for k in range(3)}
        starts = sorted(marked - {i + 1 for i in marked})
        ends = [next(k for k in range(start, len(words) + 1) if k not in marked) - 1 for start in starts]
        return [(places[start][0], places[end][1]) for start, end in zip(starts, ends, strict=True)]
    sought = pattern.text.split(" ")
    found: list[tuple[int, int]] = []
    for i in range(1 if pattern.kind == "opening" else len(words)):
        if words[i : i + len(sought)] == sought and (not found or places[i][0] >= found[-1][1]):
            found.append((places[i][0], places[i + len(sought) - 1][1]))
    return found


def _runs(
    split: Sequence[Sequence[str]], fewest: int, longest: int
) -> tuple[list[Pattern], list[tuple[np.ndarray, np.ndarray]]]:
    """Runs of words that enough responses hold, from one word to the longest, and (pattern, response) of each."""
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for text in split for word in text], np.int64)
    response = np.repeat(np.arange(len(split)), [len(text) for text in split])
    names = list(numbers)
    patterns: list[Pattern] = []
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    # The run that begins at a word, by its number among the frequent runs of this length; -1 where it is too rare.
    run, texts = np.full(len(words), 0, np.int64), [""]
    single, one = words, names
    for n in range(1, min(longest, len(words)) + 1):
        ends = np.arange(len(words) - n + 1) + n - 1
        begins = run[: len(ends)]
        good = (begins >= 0) & (single[ends] >= 0) & (response[ends] == response[: len(ends)])
        keys = begins[good] * max(1, len(one)) + single[ends][good]
        different, which = np.unique(keys, return_inverse=True)
        held = np.unique(which.astype(np.int64) * len(split) + response[: len(ends)][good])
        frequent = np.bincount(held // len(split), minlength=len(different)) >= fewest
        new = np.where(frequent, np.cumsum(frequent) - 1, -1)
        texts = [f"{texts[key // len(one)]} {one[key % len(one)]}".strip() for key in different[frequent].tolist()]
        run = np.full(len(ends), -1, np.int64)
        run[good] = new[which]
        which_held = new[held // len(split)]
        kept.append((which_held[which_held >= 0] + len(patterns), held[which_held >= 0] % len(split)))
        patterns += [Pattern("words", text) for text in texts]
        if n == 1:
            single, one = run, texts
        if not texts:
            break
    return patterns, kept
