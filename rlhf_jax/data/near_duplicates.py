"""Texts that are nearly the same, found without comparing every two of them.

A text is the set of its words and of its pairs of neighbouring words, and two are near-duplicates where these sets
overlap enough. Few hashes of each set decide which texts are compared at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# A word, or one character of a script that puts no spaces between words.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
# Two texts with overlap J agree in all four hashes of one of ten bands with probability 1 - (1 - J^4)^10: 0.995 at 0.8.
_BANDS, _BAND = 10, 4
_NOISE = 0.19  # three standard deviations of the share of 40 hashes that agree, at an overlap of 0.8
_AT_ONCE = 1 << 21  # words hashed at once


def words_of(text: str) -> list[str]:
    """Cut a text into words, in lower case and without punctuation.

    Args:
        text: any text; Chinese and Japanese characters count as a word each.

    Returns:
        The words; where there are none, the text itself as one.

    Example:
        >>> words_of("What's 2 + 2?"), words_of("??")
        (['what', 's', '2', '2'], ['??'])
    """
    return _WORD.findall(text.casefold()) or [text]


def near_duplicates(texts: Sequence[str], *, least: float = 0.8) -> list[list[int]]:
    """Group texts whose words, and pairs of neighbouring words, overlap.

    ``overlap(s, t) = |s & t| / |s | t|`` of the two sets; chains of near-duplicates are one group.

    Args:
        texts: [n]; each should be there once, as what is equal costs time and is known already.
        least: the overlap from which two are near-duplicates, above 0.5 and at most 1.

    Returns:
        Groups of at least two places, each in order. A pair at an overlap of 0.8 is missed once in two hundred times;
        what is listed was compared exactly. Time grows with the number of words, not with that of pairs.

    Raises:
        ValueError: if ``least`` is out of range.

    Example:
        >>> asked = ["Name the three largest cities in the north of France.", "Sing a song."]
        >>> near_duplicates([*asked, "Name the three largest cities in the north of France now."])
        [[0, 2]]

    Source: Broder (1997), On the resemblance and containment of documents.
    """
    if not 0.5 < least <= 1:
        raise ValueError(f"least must lie above 0.5 and be at most 1, found {least}")
    if len(texts) < 2:
        return []
    numbers: dict[str, int] = {}
    cut = [np.array([numbers.setdefault(word, len(numbers)) for word in words_of(text)], np.uint64) for text in texts]
    hashes = _signatures(cut)
    home = np.arange(len(texts))

    def root(place: int) -> int:
        while home[place] != place:
            home[place] = home[home[place]]
            place = int(home[place])
        return place

    for first, second in _candidates(hashes, least - _NOISE):
        one, other = root(first), root(second)
        if one != other and _overlap(cut[first], cut[second]) >= least:
            home[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(texts)):
        groups.setdefault(root(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _signatures(cut: Sequence[np.ndarray]) -> np.ndarray:
    """Take the smallest of each of 40 hashes over a text's words and pairs of words: uint64 [n, 40]."""
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 1 << 63, _BANDS * _BAND, dtype=np.uint64) | np.uint64(1)
    shifts = rng.integers(0, 1 << 63, _BANDS * _BAND, dtype=np.uint64)
    found = np.empty((len(cut), _BANDS * _BAND), np.uint64)
    sizes = np.array([len(words) for words in cut])
    start = 0
    while start < len(cut):
        stop = start + max(1, int(np.searchsorted(np.cumsum(sizes[start:]), _AT_ONCE, side="right")))
        flat = np.concatenate(cut[start:stop])
        starts = np.concatenate([[0], np.cumsum(sizes[start:stop])[:-1]])
        singles = _mixed(flat)
        pairs = _mixed(singles[:-1] * np.uint64(3) + singles[1:])
        pairs = np.append(pairs, singles[-1])
        ends = starts + sizes[start:stop] - 1
        pairs[ends] = singles[ends]  # the last word of a text has no neighbour in it
        for column, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
            least = np.minimum(singles * factor + shift, pairs * factor + shift)
            found[start:stop, column] = np.minimum.reduceat(least, starts)
        start = stop
    return found


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Spread numbers over all of 64 bits (the last steps of SplitMix64)."""
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _candidates(hashes: np.ndarray, least: float) -> list[tuple[int, int]]:
    """List neighbours among the texts that agree in a band, those that agree in enough hashes altogether."""
    pairs = []
    for band in range(_BANDS):
        part = hashes[:, band * _BAND : (band + 1) * _BAND]
        order = np.lexsort(part.T)
        same = (part[order[1:]] == part[order[:-1]]).all(axis=1)
        pairs.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    found = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    agree = np.array([(hashes[i] == hashes[j]).mean() for i, j in found])
    return [(int(i), int(j)) for i, j in found[agree >= least]] if len(found) else []


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    one, other = (
        set(words.tolist()) | set(zip(words.tolist(), words[1:].tolist(), strict=False)) for words in (first, second)
    )
    return len(one & other) / len(one | other)
