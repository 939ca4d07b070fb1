"""Where answers are kept: an SQLite database of every answer by its question's content, and of every try that failed.

An answer is on the disk before anybody votes by it, so that a run killed anywhere pays for none twice. The file is also
the record for an audit: what was asked, word for word, what was answered, when, in how many tokens and at what cost.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.judges.endpoint.errors import EndpointError, Failure

KIND = 0x524C484A  # "RLHJ", SQLite's application_id
VERSION = 1
_WAIT = 60.0  # seconds for which one writer waits for another
_AT_ONCE = 500  # keys in a query
_LONGEST_BODY = 10_000  # characters kept of what came with a failure

_TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, url TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL,
    tokens_in INTEGER, tokens_out INTEGER, cost REAL NOT NULL, seconds REAL NOT NULL, tries INTEGER NOT NULL,
    time TEXT NOT NULL
) STRICT
"""
_FAILURES = """
CREATE TABLE failures (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, url TEXT NOT NULL, model TEXT NOT NULL,
    what TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL, seconds REAL NOT NULL, time TEXT NOT NULL
) STRICT
"""


class Answer(NamedTuple):
    """An answer as it is kept."""

    request: Mapping[str, Any]
    """What was sent."""
    body: str
    """What came back."""
    tokens_in: int | None
    tokens_out: int | None
    cost: float
    seconds: float
    """How long the try took that succeeded."""
    tries: int
    """How many there were."""


def key_of(url: str, request: Mapping[str, Any]) -> str:
    """Compute the name under which an answer is kept: a hash of everything that the answer depends on.

    Args:
        url: where it is asked for.
        request: what is asked, the model and how it samples included.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> key_of("http://a/v1", {"model": "m"})[:8]
        '87480512'
    """
    content = json.dumps([url, request], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


class Cache:
    """The answers of endpoints; threads and processes may share one.

    Args:
        db: a connection to it.
        path: the file, which messages name.
    """

    def __init__(self, db: sqlite3.Connection, path: Path):
        self._db, self.path = db, path
        self._lock = threading.Lock()

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """Look up what was answered before.

        Args:
            keys: as ``key_of`` makes them.

        Returns:
            The bodies of those answers that there are, by key.
        """
        found: dict[str, str] = {}
        with self._lock, _named(self.path):
            for begin in range(0, len(keys), _AT_ONCE):
                some = keys[begin : begin + _AT_ONCE]
                marks = ",".join("?" * len(some))
                found |= dict(self._db.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", some))
        return found

    def keep(self, key: str, url: str, model: str, answer: Answer) -> None:
        """Write an answer down; it is on the disk when this returns.

        Where another process has asked the same meanwhile, its answer stays.
        """
        self._write(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, url, model, json.dumps(answer.request, ensure_ascii=False), *answer[1:], _now()),
        )

    def note(self, key: str, url: str, model: str, failure: Failure, seconds: float) -> None:
        """Write down that a try failed, and how."""
        self._write(
            "INSERT INTO failures (key, url, model, what, status, body, seconds, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key, url, model, failure.what, failure.status, failure.body[:_LONGEST_BODY], seconds, _now()),
        )

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        # Half a pair of surrogates, which JSON can hold, is no UTF-8.
        clean = [v.encode("utf-8", "replace").decode("utf-8") if isinstance(v, str) else v for v in values]
        with self._lock, _named(self.path):
            self._db.execute(statement, clean)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Cache]:
    """Open the file of answers, which is made where there is none.

    Args:
        path: the file.

    Yields:
        The answers.

    Raises:
        EndpointError: the file is something else, another version's, or cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "answers.sqlite") as cache:
        ...     cache.keep("a1", "http://a/v1", "m", Answer({"model": "m"}, "{}", 9, 1, 0.0, 0.2, 1))
        ...     cache.find(["a1", "b2"])
        {'a1': '{}'}
    """
    path = Path(path)
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a transaction of its own, every statement is forced to the disk as it ends.
        db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    with contextlib.closing(db):
        with _named(path):
            _prepare(db, path)
        yield Cache(db, path)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")  # where two make the file, the second finds it made
    kind, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not tables and kind in (0, KIND):
        db.execute(_TABLES)
        db.execute(_FAILURES)
        db.execute(f"PRAGMA application_id = {KIND}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    elif kind != KIND:
        raise EndpointError(f"{path} is an SQLite database of another program; name another file by --endpoint.cache")
    elif version != VERSION:
        raise EndpointError(
            f"{path} holds answers in the form of version {version}, and this rlhf reads version {VERSION}: use the "
            "version of rlhf that made it, or name another file by --endpoint.cache"
        )
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what SQLite says of it: a full disk, damage, another program that holds it."""
    try:
        yield
    except sqlite3.Error as error:
        raise EndpointError(
            f"{path}, where answers are kept, cannot be used: {error}; what was kept before is in it"
        ) from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
