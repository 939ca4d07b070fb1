"""A file of principles: what it may say, its version, and which principle is drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from rlhf_jax.feedback.principles import Principle, PrinciplesError, parse_principles, read_principles

FILE = """\
# What we agreed on in May.
kind: The response speaks kindly
  of people and things.
  critique: What is unkind?
  # not "rewrite": it was taken literally
  revision: Say it
    kindly.

brief-1: The response is brief: a sentence.
"""


def test_what_a_file_says(tmp_path):
    file = tmp_path / "principles.txt"
    file.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    assert read_principles(file).all == (
        Principle("kind", "The response speaks kindly of people and things.", "What is unkind?", "Say it kindly."),
        Principle("brief-1", "The response is brief: a sentence."),
    )


def test_the_version_is_that_of_what_is_meant():
    version = parse_principles(FILE).digest
    assert len(version) == 16
    assert parse_principles("\n# else\n" + FILE.replace("speaks kindly\n ", "speaks   kindly\n")).digest == version
    assert parse_principles(FILE.replace("brief: a", "brief, a")).digest != version
    assert parse_principles(FILE.replace("What is unkind", "Is it unkind")).digest != version


def test_a_draw_is_by_seed_and_text_and_even():
    principles = parse_principles("\n\n".join(f"p{i}: It is {i}." for i in range(4)))
    drawn = [principles.draw(0, f"prompt {i}").name for i in range(2000)]
    assert drawn == [principles.draw(0, f"prompt {i}").name for i in range(2000)]
    counts = Counter(drawn)
    # 2,000 draws of 4: the standard deviation of a count is 19.4.
    assert len(counts) == 4
    assert all(abs(count - 500) < 4 * 19.4 for count in counts.values())
    other = [principles.draw(1, f"prompt {i}").name for i in range(2000)]
    assert abs(sum(a == b for a, b in zip(drawn, other, strict=True)) - 500) < 4 * 19.4


def test_a_principle_that_is_added_takes_over_its_share_alone():
    few = parse_principles("a: It is a.\n\nb: It is b.")
    more = parse_principles("c: It is c.\n\nb: It is better.\n\na: It is a.")
    changed = [(few.draw(0, str(i)).name, more.draw(0, str(i)).name) for i in range(600)]
    assert all(now in (was, "c") for was, now in changed)
    assert 140 < sum(now == "c" for _, now in changed) < 260


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no principle"),
        ("# only this\n\n", "holds no principle"),
        ("It is kind.", "p.txt:1: expected 'NAME"),
        ("\n\ncritique: Why?", "p.txt:3: expected 'NAME"),
        ("kind:\n", "p.txt:1: the text of principle 'kind' is empty"),
        ("kind: It is.\nrevision:", "p.txt:1: the revision of principle 'kind' is empty"),
        ("kind: It is.\n\nkind: It is not.", "p.txt:3: a second principle is called 'kind'"),
        ("kind: It is.\ncritique: Why?\ncritique: How?", "p.txt:3: principle 'kind' has a second critique"),
    ],
)
def test_what_is_no_file_of_principles(text, said):
    with pytest.raises(PrinciplesError, match=said.replace("(", r"\(")):
        parse_principles(text, called="p.txt")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PrinciplesError, match="cannot be read"):
        read_principles(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"kind: caf\xe9")
    with pytest.raises(PrinciplesError, match="UTF-8"):
        read_principles(tmp_path / "latin.txt")
    (tmp_path / "weights.bin").write_bytes(bytes(2**21))
    with pytest.raises(PrinciplesError, match="no file of principles"):
        read_principles(tmp_path / "weights.bin")


def test_a_critique_that_is_misspelt_is_no_part_of_the_principle():
    with pytest.raises(PrinciplesError, match=r"principles:2: found 'critik' in principle 'kind'; did you mean"):
        parse_principles("kind: It is kind.\n  critik: What is unkind?")
