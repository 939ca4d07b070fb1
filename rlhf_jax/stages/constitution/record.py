"""What is kept of a call that may be killed: the chains so far, and what they were made of.

Beside ``rows.jsonl`` lies a folder ``rows.revisions``: ``chains.jsonl`` grows by whole groups of responses, and
``made_of.json`` says of what, by content, so that other principles or another model do not go on with these chains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.files import append_text, atomic_text, drop_torn_line, write_json
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.made_of import Ingredients, changed, read_ingredients


def record_folder(to: str) -> Path:
    """Name the folder beside a file of revisions.

    Example:
        >>> record_folder("out/rows.jsonl").as_posix()
        'out/rows.revisions'
    """
    path = Path(to)
    return path.with_name(f"{path.stem}.revisions")


class Record:
    """The chains of a call; whoever makes it has locked the folder.

    Args:
        folder: where they are kept.
        made_of: what they come of.
        together: how many are added at a time; fewer than that are made again.
        total: how many there are in the end.

    Raises:
        RunError: the folder holds chains of something else.
    """

    def __init__(self, folder: Path, made_of: Ingredients, *, together: int, total: int):
        self.path, note = folder / "chains.jsonl", folder / "made_of.json"
        if note.exists():
            was = read_ingredients({"made_of": read_object(note)}, str(note))
            if said := changed(was, made_of):
                raise RunError(
                    f"{folder} holds revisions that were made otherwise: {'; '.join(said)}: name another file with "
                    "--to, or give the command that made them"
                )
        else:
            write_json(note, made_of)
        drop_torn_line(self.path)
        found = read_jsonl(self.path, lambda row, where: dict(row), "error")[0] if self.path.exists() else []
        whole = total if len(found) == total else len(found) // together * together
        self.rows: list[dict[str, Any]] = found[:whole]
        if len(self.rows) < len(found):
            with atomic_text(self.path) as file:
                file.writelines(_line(row) for row in self.rows)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows at the end; they are on the disk when this returns."""
        append_text(self.path, "".join(map(_line, rows)))
        self.rows += [dict(row) for row in rows]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
