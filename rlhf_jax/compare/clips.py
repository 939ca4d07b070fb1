"""A short clip beside a response: lines, circles and boxes by frame, which the page draws.

A clip is numbers, never markup: nothing in it can run, and it takes the colours of the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rlhf_jax.data.layouts.fields import bad_row, shown

MOST_FRAMES = 1000
MOST_SHAPES = 64  # in a frame
MOST_CHARACTERS = 500_000  # a whole clip's, as JSON
COLOURS = ("ink", "soft", "line", "main", "right", "wrong")
# What a shape is made of: numbers, then a colour.
SHAPES = {"line": 5, "circle": 3, "box": 5}
_FIELDS = ("width", "height", "fps", "still", "frames", "segment")


def read_clip(value: Any, field: str, where: str) -> str:
    """Check a clip, and write it as the store keeps it.

    A clip is an object of ``width`` and ``height`` (units of its own, the top left corner is 0, 0), ``fps`` (frames a
    second), ``frames`` (a list of shapes each), and if they are wanted ``still`` (shapes behind every frame) and
    ``segment`` (a name that the export gives back). A shape is ``["line", x1, y1, x2, y2, width, colour]``,
    ``["circle", x, y, radius, colour]`` or ``["box", x, y, width, height, angle, colour]``, a box by its middle and
    turned by degrees clockwise; colours are ``COLOURS``.

    Args:
        value: what stands in the row; None or "" is no clip.
        field: the row's field.
        where: where the row stands.

    Returns:
        The clip as JSON; empty where there is none.

    Raises:
        DataError: the value is no clip; the message says what was expected.

    Example:
        >>> read_clip({"width": 9, "height": 9, "fps": 5, "frames": [[["circle", 1, 2, 3, "ink"]]]}, "clip_a", "x:1")
        '{"width":9,"height":9,"fps":5,"still":[],"frames":[[["circle",1,2,3,"ink"]]],"segment":""}'
        >>> read_clip({"width": 9, "height": 9, "fps": 5, "frames": [[["text"]]]}, "clip_a", "x:1")
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: x:1: field 'clip_a', frames[0][0]: expected a line, circle or box, found ['te...
    """
    if value is None or value == "":
        return ""

    def refuse(part: str, expected: str, found: Any) -> Exception:
        return bad_row(where, f"field '{field}'{part}", expected, shown(found))

    if not isinstance(value, Mapping):
        raise refuse("", "an object of width, height, fps and frames", value)
    if unknown := [name for name in value if name not in _FIELDS]:
        raise refuse("", f"no other fields than {', '.join(_FIELDS)}", unknown[0])
    for name, most in (("width", 10_000), ("height", 10_000), ("fps", 60)):
        if not _is_number(value.get(name)) or not 0 < value[name] <= most:
            raise refuse(f", {name}", f"a number above 0 and up to {most:,}", value.get(name))
    segment = value.get("segment", "")
    if not isinstance(segment, str) or len(segment) > 100:
        raise refuse(", segment", "a name of up to 100 characters", segment)
    frames, still = value.get("frames"), value.get("still", [])
    if not isinstance(frames, list) or not 0 < len(frames) <= MOST_FRAMES:
        raise refuse(", frames", f"a list of 1 to {MOST_FRAMES:,} frames", frames)
    for part, shapes in (("still", still), *((f"frames[{i}]", frame) for i, frame in enumerate(frames))):
        if not isinstance(shapes, list) or len(shapes) > MOST_SHAPES:
            raise refuse(f", {part}", f"a list of up to {MOST_SHAPES} shapes", shapes)
        for j, shape in enumerate(shapes):
            if problem := _problem(shape):
                raise refuse(f", {part}[{j}]", problem, shape)
    whole = {**{name: value[name] for name in ("width", "height", "fps")}, "still": still, "frames": frames}
    text = json.dumps({**whole, "segment": segment}, separators=(",", ":"), allow_nan=False)
    if len(text) > MOST_CHARACTERS:
        raise refuse("", f"up to {MOST_CHARACTERS:,} characters of JSON", f"{len(text):,} characters")
    return text


def segment_of(clip: str) -> str:
    """Name the segment that a clip shows, as its row did; empty where it had no name."""
    return str(json.loads(clip)["segment"]) if clip else ""


def _problem(shape: Any) -> str:
    """Say what a shape should have been; empty where it is one."""
    if not isinstance(shape, list) or not shape or not isinstance(shape[0], str) or shape[0] not in SHAPES:
        return "a line, circle or box"
    count = SHAPES[shape[0]]
    if len(shape) != count + 2 or not all(_is_number(number) for number in shape[1:-1]):
        return f"{shape[0]!r}, {count} numbers and a colour"
    return "" if shape[-1] in COLOURS else f"a colour, {', '.join(COLOURS)}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6
