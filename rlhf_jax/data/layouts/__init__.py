"""What rows look like: every known layout of them, read for a purpose, ``layouts.comparison(row, where)``.

``purposes`` has these functions; ``table`` knows a layout by its fields, ``meaning`` what to do about other fields;
``parse``, ``pairs`` and ``rankings`` read our own forms of rows, ``published`` other people's, ``provenance`` who said
it, ``turns`` chats, ``fields`` one field. ``exports`` makes rows of the records of labelling tools, several of one.

A row is a mapping, as JSON or TFDS gives it. Everything that reads one also takes ``where``, which is what to call the
row in an error: ``"pairs.jsonl:12"`` is line 12 of that file, and every complaint about the row begins with it.
"""

from rlhf_jax.data.layouts.exports import unfold
from rlhf_jax.data.layouts.purposes import (
    answered,
    comparison,
    demonstration,
    judged,
    labelled,
    preferred_first,
    prompt,
    text,
)

__all__ = [
    "answered",
    "comparison",
    "demonstration",
    "judged",
    "labelled",
    "preferred_first",
    "prompt",
    "text",
    "unfold",
]
