"""Segments as clips that people compare: shapes drawn from observations alone, and a sentence for who cannot see them.

A clip has the form that ``rlhf_jax.compare.clips`` reads; it is numbers, so any page or notebook may draw it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.control.bodies import hopper_points

Shape = list[Any]
WIDTH, HEIGHT = 300, 180
FPS = 12  # slower than the task runs, so that 25 steps last two seconds


class Drawing(NamedTuple):
    """How an environment looks."""

    size: int  # numbers in an observation
    still: tuple[Shape, ...]  # behind every frame
    frame: Callable[[np.ndarray], list[Shape]]  # an observation [O] to shapes
    say: Callable[[np.ndarray], str]  # an observation [O] to a few words


def clip(name: str, observations: Any) -> dict[str, Any]:
    """Draw a segment.

    Args:
        name: the environment's, one of ``DRAWINGS``.
        observations: [L, O], as the environment gives them, unscaled.

    Returns:
        The clip; ``segment`` names it by its content.

    Raises:
        ValueError: if there is no drawing of that name, or the observations are not that environment's.

    Example:
        >>> made = clip("MountainCar-v0", np.array([[-0.5, 0.0], [-0.4, 0.01]]))
        >>> len(made["frames"]), made["segment"] == segment_name(np.array([[-0.5, 0.0], [-0.4, 0.01]]))
        (2, True)
    """
    drawing, steps = _checked(name, observations)
    frames = [_rounded(drawing.frame(step)) for step in steps]
    still = _rounded(drawing.still)
    size = {"width": WIDTH, "height": HEIGHT, "fps": FPS}
    return {**size, "still": still, "frames": frames, "segment": segment_name(observations)}


def describe(name: str, observations: Any) -> str:
    """Say what a segment shows, for the text beside its clip.

    Args:
        name: the environment's.
        observations: [L, O].

    Returns:
        Its length, where it begins and where it ends.

    Raises:
        ValueError: as ``clip``.

    Example:
        >>> describe("MountainCar-v0", np.array([[-0.5, 0.0], [-0.4, 0.01]]))
        '2 steps: from car at -0.50 to car at -0.40'
    """
    drawing, steps = _checked(name, observations)
    return f"{len(steps)} steps: from {drawing.say(steps[0])} to {drawing.say(steps[-1])}"


def segment_name(observations: Any) -> str:
    """Name a segment by its content.

    Args:
        observations: [L, O], compared as float32.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(np.ascontiguousarray(observations, np.float32).tobytes()).hexdigest()[:16]


def _checked(name: str, observations: Any) -> tuple[Drawing, np.ndarray]:
    if name not in DRAWINGS:
        raise ValueError(f"there is no drawing of {name!r}; there are {', '.join(DRAWINGS)}")
    drawing, steps = DRAWINGS[name], np.asarray(observations, np.float64)
    if steps.ndim != 2 or steps.shape[1] != drawing.size or not len(steps) or not np.isfinite(steps).all():
        raise ValueError(f"a segment of {name} is finite numbers [L, {drawing.size}], found shape {steps.shape}")
    return drawing, steps


def _rounded(shapes: Sequence[Shape]) -> list[Shape]:
    """A tenth of a unit is finer than any screen, and keeps the store small."""
    return [[round(float(x), 1) if isinstance(x, int | float) else x for x in shape] for shape in shapes]


def _degrees(radians: float) -> str:
    return f"{round(math.degrees(radians))}°"


# The track of CartPole is 4.8 long; its pole, 1 long, falls over at 12 degrees.
_FLOOR = 140.0


def _cart_pole(o: np.ndarray) -> list[Shape]:
    x, theta = 150 + 50 * float(o[0]), float(o[2])
    top = [x + 90 * math.sin(theta), _FLOOR - 12 - 90 * math.cos(theta)]
    fallen = abs(theta) > math.radians(12) or abs(float(o[0])) > 2.4
    pole = ["line", x, _FLOOR - 12, *top, 6, "wrong" if fallen else "main"]
    return [["box", x, _FLOOR - 12, 44, 20, 0, "ink"], pole, ["circle", x, _FLOOR - 12, 4, "soft"]]


def _acrobot(o: np.ndarray) -> list[Shape]:
    first, both = math.atan2(o[1], o[0]), math.atan2(o[1], o[0]) + math.atan2(o[3], o[2])
    middle = [150 + 38 * math.sin(first), 90 + 38 * math.cos(first)]
    end = [middle[0] + 38 * math.sin(both), middle[1] + 38 * math.cos(both)]
    there = -math.cos(first) - math.cos(both) > 1
    arms: list[Shape] = [["line", 150, 90, *middle, 7, "ink"], ["line", *middle, *end, 7, "main"]]
    return [*arms, ["circle", 150, 90, 4, "soft"], ["circle", *end, 5, "right" if there else "wrong"]]


def _hill(position: float) -> tuple[float, float]:
    return 20 + 260 * (position + 1.2) / 1.8, 130 - 80 * (0.45 * math.sin(3 * position) + 0.55)


def _mountain_car(o: np.ndarray) -> list[Shape]:
    x, y = _hill(float(o[0]))
    slope = math.degrees(math.atan2(_hill(float(o[0]) + 0.01)[1] - y, _hill(float(o[0]) + 0.01)[0] - x))
    return [["box", x, y - 7, 24, 12, slope, "right" if o[0] >= 0.5 else "main"]]


def _pendulum(o: np.ndarray) -> list[Shape]:
    end = [150 + 70 * float(o[1]), 90 - 70 * float(o[0])]
    return [["line", 150, 90, *end, 8, "main"], ["circle", 150, 90, 5, "ink"], ["circle", *end, 6, "ink"]]


def _line(o: np.ndarray) -> list[Shape]:
    return [["circle", 150 + 130 * float(np.clip(o[0], -1.1, 1.1)), 90, 9, "main"]]


def _hopper(o: np.ndarray) -> list[Shape]:
    x, y = hopper_points(o).T
    x, y = 150 + 100 * x, 165 - 100 * y
    fallen = o[0] < 0.7 or abs(float(o[1])) > 0.2
    speed: Shape = ["line", 150, 12, 150 + 25 * float(np.clip(o[5], -5, 5)), 12, 4, "right" if o[5] > 0 else "wrong"]
    parts = ((0, 1, 10, "wrong" if fallen else "main"), (1, 2, 9, "ink"), (2, 3, 8, "ink"), (4, 5, 11, "soft"))
    return [speed, *(["line", x[i], y[i], x[j], y[j], width, colour] for i, j, width, colour in parts)]


_HILL = [_hill(-1.2 + 0.05 * i) for i in range(37)]

DRAWINGS: dict[str, Drawing] = {
    "CartPole-v1": Drawing(
        4,
        (["line", 30, _FLOOR, 270, _FLOOR, 2, "soft"], ["line", 150, _FLOOR, 150, _FLOOR + 8, 2, "soft"]),
        _cart_pole,
        lambda o: f"cart at {o[0]:.2f}, pole at {_degrees(o[2])}",
    ),
    "Acrobot-v1": Drawing(
        6,
        (["line", 40, 52, 260, 52, 2, "line"],),  # the height that the end of the second arm has to reach
        _acrobot,
        lambda o: f"arms at {_degrees(math.atan2(o[1], o[0]))} and {_degrees(math.atan2(o[3], o[2]))}",
    ),
    "MountainCar-v0": Drawing(
        2,
        (
            *(["line", *a, *b, 2, "soft"] for a, b in itertools.pairwise(_HILL)),
            ["line", *_hill(0.5), _hill(0.5)[0], _hill(0.5)[1] - 30, 2, "right"],
        ),
        _mountain_car,
        lambda o: f"car at {o[0]:.2f}",
    ),
    "Pendulum-v1": Drawing(
        3,
        (["line", 150, 10, 150, 20, 2, "soft"],),
        _pendulum,
        lambda o: f"pendulum at {_degrees(math.atan2(o[1], o[0]))} from upright",
    ),
    "line": Drawing(
        2,
        (["line", 20, 90, 280, 90, 2, "soft"], ["line", 150, 80, 150, 100, 2, "soft"]),
        _line,
        lambda o: f"point at {o[0]:.2f}",
    ),
    "hopper": Drawing(
        11,
        (["line", 20, 165, 280, 165, 2, "soft"], ["line", 150, 6, 150, 18, 2, "soft"]),  # above, how fast it moves
        _hopper,
        lambda o: f"torso {o[0]:.2f} high at {o[5]:.2f} a second",
    ),
}
