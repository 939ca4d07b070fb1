"""Fields beside those that a layout reads: refused by name where they carry meaning, else left alone and counted.

What a row says must not depend on which of its fields a layout happens to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.data.layouts.fields import Row, bad_row, names, shown
from rlhf_jax.data.layouts.turns import MESSAGE_FIELDS, SYSTEM, is_empty, records

_MEDIA = "the models here read text alone, so leave out the rows that have it"
_TOOLS = "calls of tools are not trained here; write what is to be learned as text, or leave out the rows"
# Fields that say something which nothing here reads, by what to do about them.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIA),
    **dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), _TOOLS),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking"),
        "write it into the answer as the model's chat template does, such as <think>...</think>, or remove the field",
    ),
    **dict.fromkeys(("weight", "weights"), "rows have no weights: repeat a row, or leave it out, and remove the field"),
    "margin": "rows have no margins: set --margin for all of them, and remove the field",
    "kto_tag": "write it as 'label', true or false, beside 'prompt' and 'response'",
    **dict.fromkeys(
        ("chat_template_kwargs", "documents"),
        "the template is given the turns alone, so write into them what it would make of this, or remove the field",
    ),
}
ASKED = ("prompt", "instruction", "input", "history", "messages", "conversations", *SYSTEM)
SAID = ("response", "completion", "output", "chosen", "rejected", "ratings", "preference")
_CHATS = ("messages", "conversations", "prompt", "chosen", "rejected", "completion", "response")


def check_meaning(row: Row, where: str, reads: Iterable[str], texts: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a row with a field that says something which its layout does not read.

    Args:
        row: the fields.
        where: where the row stands.
        reads: the fields that its layout reads.
        texts: everything that was read of it. A field that only repeats some of it is no contradiction.
        known: the fields that matter besides: ``ASKED``, and ``SAID`` where the answers matter.

    Raises:
        DataError: if there is such a field; it says what to do.

    Example:
        >>> check_meaning({"prompt": "Hi.", "response": "Hello!", "images": ["a.png"]}, "x:1", ["prompt"], [], ASKED)
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: x:1: field 'images': expected none, found ['a.png'] (list): the models here ...
    """
    read, there = set(reads), {text.strip() for text in texts}
    for field, value in row.items():
        if is_empty(value) or field in read:
            continue
        if field in REFUSED and not (field in ("weight", "weights") and value == 1):
            raise bad_row(where, f"field '{field}'", "none", f"{shown(value)}: {REFUSED[field]}")
        if field == "label" and isinstance(value, bool) and "response" in known:
            how = "a thumb is read beside 'prompt' and 'response' alone, so write the row so, or remove the field"
            raise bad_row(where, "field 'label'", "none", f"{shown(value)}: {how}")
        if field in known and not _repeats(value, there):
            found = f"{shown(value)}: what it says would be lost, so put it where it belongs or remove the field"
            beside = names(read & row.keys())
            raise bad_row(where, f"field '{field}'", f"none beside {beside}, or a text that stands there", found)


def _repeats(value: Any, there: set[str]) -> bool:
    """Whether a text, or every turn of a chat, is among the texts that were read."""
    if isinstance(value, str):
        return value.strip() in there
    said = [turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None for turn in records(value)]
    return bool(said) and all(isinstance(text, str) and text.strip() in there for text in said)


def left_alone(row: Row, reads: Iterable[str]) -> Counter[str]:
    """Count the fields of a row that mean nothing here; those of messages are named ``messages[].name``.

    Args:
        row: the fields.
        reads: the fields that its layout reads.

    Returns:
        How often each stands in the row with something in it.

    Example:
        >>> turn = {"role": "user", "content": "Hi.", "name": "Bo"}
        >>> left_alone({"messages": [turn, turn], "source": "me", "id": None}, ["messages"])
        Counter({'messages[].name': 2, 'source': 1})
    """
    known = {*reads, *REFUSED, *ASKED, *SAID}
    found = Counter(field for field, value in row.items() if field not in known and not is_empty(value))
    for field in _CHATS:
        for turn in records(row.get(field)):
            if isinstance(turn, Mapping):
                unread = (name for name, value in turn.items() if name not in MESSAGE_FIELDS and not is_empty(value))
                found.update(f"{field}[].{name}" for name in unread)
    return found
