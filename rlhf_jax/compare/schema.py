"""The file in which comparisons are kept: an SQLite database in WAL mode, its tables, and whether a file is one.

Every commit is forced to the disk (``synchronous=FULL``): what a rater was told is recorded is there after a crash.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.compare.errors import CompareError

KIND = 0x524C4843  # "RLHC", SQLite's application_id
VERSION = 2  # 1 had no clips, and is read as it stands
_WAIT = 30.0  # seconds for which one writer waits for another

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE items (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL UNIQUE, prompt TEXT NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL,
    golden TEXT CHECK (golden IN ('a', 'b', 'tie')), explanation TEXT NOT NULL, gap REAL, spread REAL,
    model_a TEXT NOT NULL, model_b TEXT NOT NULL, clip_a TEXT NOT NULL, clip_b TEXT NOT NULL
) STRICT;
CREATE TABLE raters (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token_hash TEXT NOT NULL UNIQUE, added TEXT NOT NULL
) STRICT;
CREATE TABLE showings (
    id TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters (id), item TEXT NOT NULL REFERENCES items (id),
    kind TEXT NOT NULL CHECK (kind IN ('calibration', 'golden', 'repeat', 'fresh')),
    flipped INTEGER NOT NULL CHECK (flipped IN (0, 1)), time TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'answered', 'undone', 'withdrawn'))
) STRICT;
CREATE UNIQUE INDEX one_open ON showings (rater) WHERE state = 'open';
CREATE INDEX by_rater ON showings (rater);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, shown TEXT NOT NULL UNIQUE REFERENCES showings (id),
    verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'both_bad', 'skip')),
    strength INTEGER NOT NULL CHECK (strength BETWEEN 1 AND 3), seconds REAL NOT NULL, time TEXT NOT NULL, undone TEXT
) STRICT;
CREATE VIEW standing AS
    SELECT answers.number, answers.shown, answers.verdict, answers.strength, answers.seconds, answers.time,
           showings.rater, showings.item, showings.kind, showings.flipped
    FROM answers JOIN showings ON showings.id = answers.shown WHERE answers.undone IS NULL;
"""


@contextlib.contextmanager
def created(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new database that takes its name, whole, only when the block ends without an error.

    Args:
        path: where it goes; there is no such file, and its folder is there.

    Yields:
        A connection in a transaction, with all tables.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.closing(_connect(scratch)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {KIND}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.executescript(_TABLES)
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        if path.exists():
            raise CompareError(f"{path} is there already, and holds what people said; open it, or name another file")
        os.replace(scratch, path)
    finally:
        for end in ("", "-wal", "-shm"):
            scratch.with_name(scratch.name + end).unlink(missing_ok=True)


def check(path: Path) -> None:
    """Check that a file is a store of comparisons of this version.

    Raises:
        CompareError: there is none, or it is something else; the message names it.
    """
    if not path.is_file():
        raise CompareError(f"{path}: there is no such file; rlhf compare RUN --to {path} makes it")
    try:
        # Never by a file handle of our own: closing one would drop the locks of every connection of this process.
        with contextlib.closing(_connect(path)) as db:
            kind, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    except sqlite3.DatabaseError as error:
        raise CompareError(
            f"{path} is no store of comparisons, or damaged ({error}): name a file that rlhf compare has made"
        ) from error
    if kind != KIND:
        raise CompareError(f"{path} is an SQLite database of another program; name one that rlhf compare has made")
    if not 1 <= version <= VERSION:
        raise CompareError(
            f"{path} is a store of comparisons of version {version}, and this rlhf reads up to version {VERSION}: "
            "use the version of rlhf that made it, or name another file"
        )


def held(path: Path) -> sqlite3.Connection:
    """Open a connection that stays open, so that the others, as they close, leave the write-ahead log as it is.

    The last connection that closes moves the log into the database and forces both to the disk, which takes longer
    than an answer does.

    Args:
        path: the database.

    Returns:
        The connection, for any thread to close.
    """
    with _named(path):
        db = _connect(path, any_thread=True)
        db.execute("SELECT count(*) FROM settings").fetchone()  # opens the log
    return db


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection for one piece of work that only reads, and sees one state of the store.

    Args:
        path: the database.

    Yields:
        The connection; rows have their columns' names.
    """
    with _named(path), contextlib.closing(_connect(path)) as db:
        db.execute("BEGIN")
        yield db
        db.execute("ROLLBACK")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection for one piece of work, which is on the disk when the block has ended, or has not happened.

    Args:
        path: the database.

    Yields:
        The connection, the only one that writes; it is closed where an error ends the block, and nothing is kept.
    """
    with _named(path), contextlib.closing(_connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what SQLite says of it: a full disk, damage, another program that holds it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise CompareError(f"{path} cannot be used: {error}; what was acknowledged before is in it") from error


def _connect(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=not any_thread)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db
