"""Patterns that say the same: a phrase is one finding, as long as it is, and not the ten runs of words in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf_jax.evaluation.monitors.patterns import Occurrences, Pattern

# Patterns in so nearly the same responses are one finding, where they have words in common.
SAME_RESPONSES = 0.8
LONGEST_PHRASE = 12  # words that are shown of one


def distinct(
    found: Occurrences, order: Sequence[int], split: Sequence[Sequence[str]]
) -> list[tuple[int, Pattern, np.ndarray]]:
    """Keep one pattern of those that say the same, and lengthen it to the phrase that it is a part of.

    Args:
        found: all patterns, and who holds them.
        order: places of those that are asked about, the most important first.
        split: the words of the responses.

    Returns:
        (place, pattern, responses that hold it) of each that is left, in their order. Words are added to a pattern on
        either side while nearly all responses that hold it go on alike.

    Example:
        >>> texts = ["i am an ai", "i am an ai", "am i"]
        >>> held = [(0, 0), (0, 1), (1, 0), (1, 1)]
        >>> found = Occurrences(*np.array(held).T, [Pattern("words", "i am"), Pattern("words", "am an")])
        >>> [(pattern.text, who.tolist()) for _, pattern, who in distinct(found, [0, 1], [t.split() for t in texts])]
        [('i am an ai', [0, 1])]
    """
    holders = _holders(found, order)
    kept: list[int] = []
    for i in order:
        near = [k for k in kept if _is_part(found.patterns[i], found.patterns[k])]
        common = {k: _common(holders[i], holders[k]) for k in near}
        same = [k for k in near if common[k] >= SAME_RESPONSES * len(np.union1d(holders[i], holders[k]))]
        shorter = [k for k in near if _size(found.patterns[i])[0] <= _size(found.patterns[k])[0]]
        within = [k for k in shorter if common[k] >= SAME_RESPONSES * len(holders[i])]
        if same and _size(found.patterns[i]) > _size(found.patterns[same[0]]):
            kept = [i if k == same[0] else k for k in kept if k not in same[1:]]
        elif not same and not within:
            kept.append(i)
    whole: list[tuple[int, Pattern, np.ndarray]] = []
    for i in kept:
        pattern, who = _lengthened(found.patterns[i], holders[i], split)
        if not any(
            _is_part(pattern, other) and _common(who, others) >= SAME_RESPONSES * len(who) for _, other, others in whole
        ):
            whole.append((i, pattern, who))
    return whole


def _lengthened(pattern: Pattern, holders: np.ndarray, split: Sequence[Sequence[str]]) -> tuple[Pattern, np.ndarray]:
    """The longest phrase about a run of words that nearly all who hold it have in common, and those who have it."""
    words = pattern.text.split()
    if not words:
        return pattern, holders
    for step in (1,) if pattern.kind == "opening" else (1, -1):
        while len(words) < LONGEST_PHRASE:
            beside = {int(i): _beside(split[i], words, step, pattern.kind == "opening") for i in holders}
            counts = Counter(word for next_words in beside.values() for word in next_words)
            # By the word itself where two are as common, so that the same responses always give the same phrase.
            word, many = max(counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
            if many < SAME_RESPONSES * len(holders):
                break
            words = [*words, word] if step == 1 else [word, *words]
            holders = np.array([i for i, next_words in beside.items() if word in next_words])
    return Pattern(pattern.kind, " ".join(words)), holders


def _beside(text: Sequence[str], words: Sequence[str], step: int, opening: bool) -> set[str]:
    """The words that stand behind (step 1) or before (-1) a run of words, wherever a response holds it."""
    n = len(words)
    found = set()
    for i in range(1 if opening else len(text) - n + 1):
        at = i + n if step == 1 else i - 1
        if 0 <= at < len(text) and list(text[i : i + n]) == list(words):
            found.add(text[at])
    return found


def _holders(found: Occurrences, chosen: Sequence[int]) -> dict[int, np.ndarray]:
    order = np.argsort(found.pattern, kind="stable")
    starts = np.searchsorted(found.pattern[order], np.arange(len(found.patterns) + 1))
    return {i: found.response[order[starts[i] : starts[i + 1]]] for i in chosen}


def _size(pattern: Pattern) -> tuple[int, bool]:
    return len(pattern.text.split()), pattern.kind == "opening"


def _is_part(one: Pattern, other: Pattern) -> bool:
    """Whether two runs of words overlap: one holds the other, or one ends as the other begins."""
    a, b = one.text.split(), other.text.split()
    if not a or not b:
        return one.kind == other.kind
    return any(
        a[max(0, -shift) : len(b) - shift] == b[max(0, shift) : len(a) + shift] for shift in range(1 - len(a), len(b))
    )


def _common(one: np.ndarray, other: np.ndarray) -> int:
    return len(np.intersect1d(one, other, assume_unique=True))
