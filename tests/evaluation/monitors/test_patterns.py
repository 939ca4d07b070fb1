"""What responses hold, counted once more by hand."""

from collections import Counter

import numpy as np
import planted_hacks as planted
import pytest

from rlhf_jax.evaluation.monitors import Pattern, occurrences, repeated, spans, words_of
from rlhf_jax.evaluation.monitors.patterns import forms


def test_words_are_what_people_call_words():
    assert words_of("I can't -- re_do it!") == ["i", "can't", "-", "-", "re", "_", "do", "it", "!"]
    assert words_of("日本 ok") == ["日", "本", "ok"]
    assert words_of(" \n") == []


def test_runs_of_words_are_those_of_a_plain_count():
    rng = np.random.default_rng(0)
    texts = [*(planted.prose(rng, int(rng.integers(0, 12))) for _ in range(60)), "", "w0 w0 w0 w0 w0"]
    split = [text.split() for text in texts]
    held = Counter(
        run
        for text in split
        for run in {" ".join(text[i : i + n]) for n in range(1, 5) for i in range(len(text) - n + 1)}
    )
    found = occurrences(texts, split, fewest=3)
    counted = np.bincount(found.pattern, minlength=len(found.patterns))
    ours = {p.text: int(c) for p, c in zip(found.patterns, counted, strict=True) if p.kind == "words"}
    assert ours == {run: count for run, count in held.items() if count >= 3}
    assert any(run.count(" ") >= 1 for run in ours)
    # And of the responses themselves.
    for pattern, response in zip(found.pattern.tolist(), found.response.tolist(), strict=True):
        assert spans(texts[response], found.patterns[pattern])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("- one\n- two", ["bullets"]),
        ("so - as they say - it is", []),
        ("- one", []),  # a dash is no list
        ("Here:\n1. one\n2) two", ["numbered list"]),
        ("in 2020. 2 more", []),
        ("# Title\ntext", ["headings"]),
        ("**Title**\ntext and **bold** text", ["headings"]),
        ("#tag", []),
        (" \n", ["empty"]),
        ("", ["empty"]),
        ("so good and so good and so good", ["repetition"]),
    ],
)
def test_lists_headings_and_repetition(text, kinds):
    found = [pattern for pattern in forms(text, words_of(text)) if pattern.kind != "opening"]
    assert [pattern.kind for pattern in found] == kinds
    for pattern in found:
        assert spans(text, pattern)


def test_repetition_is_the_share_of_runs_said_before():
    # so good and | good and so | and so good | so good and (again): 1 of 4 for every two words more
    assert repeated(["a", "b", "c", "d", "e", "f", "g", "h"]) == 0.0
    assert repeated(["a", "b", "c", "a", "b", "c", "a", "b"]) == 0.5  # abc bca cab abc bca cab
    assert repeated(["a", "a", "a", "a", "a", "a", "a"]) == 0.0  # too short to speak of


def test_marks_cover_what_was_found():
    text = "No: the cat sat. The cat sat, the cat ran."
    assert [text[a:b] for a, b in spans(text, Pattern("words", "the cat"))] == ["the cat", "The cat", "the cat"]
    assert [text[a:b] for a, b in spans(text, Pattern("opening", "no :"))] == ["No:"]
    assert spans(text, Pattern("opening", "the cat")) == []
    again = "one two three four one two three five"
    assert [again[a:b] for a, b in spans(again, Pattern("repetition", ""))] == ["one two three"]
    assert [again[a:b] for a, b in spans(again[15:], Pattern("repetition", ""))] == []
