"""The file that labels are added to, and what is kept beside it: who its raters are, and the samples they judge.

Beside ``rows.jsonl`` lies a folder ``rows.labels``: ``made_of.json`` knows every rater and the samples by content,
``samples.jsonl`` holds the samples of a run. Rows alone are whole without it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.files import append_text, drop_torn_line, write_json
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.lock import locked
from rlhf_jax.runs.made_of import Ingredient, changed, read_ingredients


class Ledger:
    """A file of labels as one rater adds to it; ``opened`` makes it.

    Args:
        to: the file, which may not be there yet.
        rater: who votes.
    """

    def __init__(self, to: Path, rater: str):
        self.to, self.rater = to, rater
        self.folder = to.with_name(f"{to.stem}.labels")
        _end_last_line(to)
        self.rows = _rows_of(to, rater)

    @property
    def samples(self) -> Path:
        """Where the samples are that are judged."""
        return self.folder / "samples.jsonl"

    def held(self) -> set[str]:
        """List the names of the pairs that the rater has voted on."""
        return {str(row.get("pair", "")) for row in self.rows}

    def checked(self, name: str, now: Ingredient, otherwise: str) -> None:
        """Check that this part of the file is made of what it was made of before, and note it where it is new.

        Args:
            name: the part: the rater, or the samples.
            now: what it is made of.
            otherwise: what to do where it is something else.

        Raises:
            RunError: it is made of something else.
        """
        file = self.folder / "made_of.json"
        noted = read_object(file) if file.exists() else {}
        was = read_ingredients({"made_of": noted}, str(file))
        if name not in was and name == f"rater {self.rater}" and self.rows:
            raise RunError(f"{self.to} holds votes of {name}, and {file} does not say who that was: {otherwise}")
        begun = self.rows if name == f"rater {self.rater}" else self.samples.exists()
        if name in was and begun:  # a first try that failed has left nothing to be mixed up with
            if changed({name: was[name]}, {name: now}):
                known = f"it was {was[name]['is']}" if was[name]["is"] != now["is"] else f"{now['is']} was another then"
                raise RunError(f"{self.to} holds votes of another {name} ({known}): {otherwise}")
            return
        if was.get(name) != now:
            write_json(file, {**noted, name: now})

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows at the end of the file; they are on the disk when this returns."""
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        append_text(self.to, lines)
        self.rows += [dict(row) for row in rows]


@contextlib.contextmanager
def opened(to: str, rater: str) -> Iterator[Ledger]:
    """Have a file of labels alone while the block runs.

    Args:
        to: the file.
        rater: who votes.

    Yields:
        The ledger.

    Raises:
        LockedError: another process adds to it.
        RunError: the file holds something else.
    """
    path = Path(to)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.stem}.labels"), f"labels in {path}"):
        yield Ledger(path, rater)


def _end_last_line(to: Path) -> None:
    """Cut off what a killed writer left of the last line; a row that another program has not ended stays."""
    if not to.exists():
        return
    last = to.read_bytes().rpartition(b"\n")[2]
    try:
        whole = isinstance(json.loads(last), dict)  # the beginning of an object is none
    except ValueError:
        whole = False
    if whole:
        with to.open("ab") as file:
            file.write(b"\n")
    else:
        drop_torn_line(to)


def _rows_of(to: Path, rater: str) -> list[dict[str, Any]]:
    if not to.exists():
        return []
    found = []
    for number, line in enumerate(to.read_text(encoding="utf-8", errors="surrogatepass").split("\n"), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError as error:
            raise RunError(f"{to}:{number}: {error}; name another file with --to") from error
        if not isinstance(row, dict) or (row and not {"prompt", "a", "b"} <= row.keys()):
            raise RunError(
                f"{to}:{number}: expected a row of prompt, a, b and preference, as this command adds, found "
                f"{line.strip()!r:.80}; name another file with --to"
            )
        if row.get("rater") == rater:
            found.append(row)
    return found
