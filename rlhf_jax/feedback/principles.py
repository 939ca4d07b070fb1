"""Principles: what a response is criticised, revised and compared by, in a text file that people can argue about.

A file has a paragraph for each principle. It begins with the principle's name and what a response that keeps it is
like; ``critique:`` and ``revision:`` may follow, with how a critique and a revision are asked for. Lines that begin
with a number sign are comments.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LARGEST = 2**20  # bytes; what is larger is another file that was named by mistake
_FIRST = re.compile(r"([\w-]+)\s*:(.*)")
_ASKED = ("critique", "revision")
_COMMENT = "#"


class PrinciplesError(ValueError):
    """A file of principles that cannot be used; the message names file and line and says what to do."""


class Principle(NamedTuple):
    """What a response that keeps a principle is like, and how its critique and its revision are asked for."""

    name: str
    text: str  # a sentence about the response, which a judge takes for its criterion
    critique: str = ""  # empty: what asks makes a request of the text
    revision: str = ""


class Principles(NamedTuple):
    """All principles of a file."""

    all: tuple[Principle, ...]
    digest: str  # the file's version: 16 hexadecimal digits of a SHA-256 over names and texts, comments left out

    def draw(self, seed: int, text: str) -> Principle:
        """Draw the principle for a text: always the same one for the same seed and text, each as likely as the others.

        A principle that is added later takes its share of the texts over, and all others keep theirs.

        Args:
            seed: another one draws anew.
            text: what stands for the case, a prompt or a prompt and the number of the round.

        Example:
            >>> principles = parse_principles("kind: It is kind.\\n\\nbrief: It is brief.")
            >>> [principles.draw(0, prompt).name for prompt in ("Hello!", "Hi.")]
            ['brief', 'kind']
        """

        def height(one: Principle) -> bytes:
            return hashlib.sha256(json.dumps([seed, one.name, text]).encode("ascii")).digest()

        return max(self.all, key=height)


def read_principles(path: Path | str) -> Principles:
    """Read a file of principles.

    Args:
        path: a text file in UTF-8.

    Returns:
        Its principles, in order, and their version.

    Raises:
        PrinciplesError: when the file cannot be read, holds no principle, or a line is none of what it may be.
    """
    at = Path(path)
    try:
        size = at.stat().st_size
        if size > _LARGEST:
            raise PrinciplesError(f"{path}: {size:,} bytes are no file of principles; name a text file")
        text = at.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PrinciplesError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise PrinciplesError(f"{path}: expected a text file in UTF-8 ({error})") from error
    return parse_principles(text, called=str(path))


def parse_principles(text: str, *, called: str = "principles") -> Principles:
    """Take principles from the text of a file.

    Args:
        text: paragraphs ``NAME: what a response is like``, each with ``critique: ...`` and ``revision: ...`` in lines
            of their own where they are not left to what asks; a text may go on over several lines.
        called: what messages call the file.

    Returns:
        The principles, in order, and their version.

    Raises:
        PrinciplesError: as for ``read_principles``.

    Example:
        >>> parse_principles("# tone\\nkind: The response\\n  is kind.\\n  critique: What is unkind?").all
        (Principle(name='kind', text='The response is kind.', critique='What is unkind?', revision=''),)
    """
    found: dict[str, Principle] = {}
    for number, paragraph in _paragraphs(text):
        one = _principle(number, paragraph, called)
        if one.name in found:
            raise PrinciplesError(f"{called}:{number}: a second principle is called {one.name!r}: rename one of them")
        found[one.name] = one
    if not found:
        raise PrinciplesError(
            f"{called} holds no principle: write paragraphs 'NAME: what a response that keeps it is like'"
        )
    principles = tuple(found.values())
    said = json.dumps([list(one) for one in principles])
    return Principles(principles, hashlib.sha256(said.encode("ascii")).hexdigest()[:16])


def _paragraphs(text: str) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Find paragraphs, without comments: the number of the first line, and numbered lines."""
    paragraph: list[tuple[int, str]] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(_COMMENT):
            paragraph.append((number, stripped))
        elif not stripped and paragraph:
            yield paragraph[0][0], paragraph
            paragraph = []


def _principle(number: int, lines: list[tuple[int, str]], called: str) -> Principle:
    first = _FIRST.fullmatch(lines[0][1])
    if first is None or first[1] in _ASKED:
        raise PrinciplesError(
            f"{called}:{number}: expected 'NAME: what a response that keeps the principle is like', where NAME is "
            f"letters, digits, _ and - and none of {' and '.join(_ASKED)}, found {lines[0][1]!r:.80}"
        )
    name, field = first[1], "text"
    parts: dict[str, list[str]] = {"text": [first[2]]}
    for at, line in lines[1:]:
        asked = _FIRST.fullmatch(line)
        if asked is not None and asked[1] not in _ASKED and difflib.get_close_matches(asked[1].lower(), _ASKED):
            close = difflib.get_close_matches(asked[1].lower(), _ASKED)[0]
            raise PrinciplesError(f"{called}:{at}: found {asked[1]!r} in principle {name!r}; did you mean {close!r}?")
        if asked is None or asked[1] not in _ASKED:
            parts[field].append(line)
            continue
        field = asked[1]
        if field in parts:
            raise PrinciplesError(f"{called}:{at}: principle {name!r} has a second {field}: leave one of them out")
        parts[field] = [asked[2]]
    texts = {field: " ".join(" ".join(words).split()) for field, words in parts.items()}
    if empty := next((field for field, text in texts.items() if not text), ""):
        raise PrinciplesError(
            f"{called}:{number}: the {empty} of principle {name!r} is empty: write it, or leave it out"
        )
    return Principle(name, **texts)
