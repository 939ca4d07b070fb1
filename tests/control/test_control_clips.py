"""Segments as clips: what is drawn is what was observed, and the page takes every drawing."""

import json

import numpy as np
import pytest

from rlhf_jax.compare.clips import read_clip
from rlhf_jax.control.clips import DRAWINGS, clip, describe, segment_name


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_page_takes_every_drawing(name):
    segment = np.random.default_rng(0).normal(size=(25, DRAWINGS[name].size))
    made = clip(name, segment)
    assert len(made["frames"]) == 25
    assert json.loads(read_clip(made, "clip_a", "x:1")) == json.loads(json.dumps(made))
    assert made["segment"] == segment_name(segment.astype(np.float32))
    assert describe(name, segment).startswith("25 steps: from ")


def test_a_pole_is_drawn_where_it_stands_and_marked_where_it_fell():
    """90 units long: at 30 degrees its end is 45 to the right and 78 up."""
    _, pole, _ = clip("CartPole-v1", [[0, 0, np.pi / 6, 0]])["frames"][0]
    assert pole == ["line", 150.0, 128.0, 195.0, 50.1, 6.0, "wrong"]
    _, pole, _ = clip("CartPole-v1", [[1, 0, 0, 0]])["frames"][0]
    assert pole == ["line", 200.0, 128.0, 200.0, 38.0, 6.0, "main"]


def test_an_arm_hangs_and_reaches_the_line():
    hanging, up = ([[np.cos(a), np.sin(a), 1.0, 0.0, 0.0, 0.0]] for a in (0.0, np.pi))
    assert clip("Acrobot-v1", hanging)["frames"][0][-1] == ["circle", 150.0, 166.0, 5.0, "wrong"]
    assert clip("Acrobot-v1", up)["frames"][0][-1] == ["circle", 150.0, 14.0, 5.0, "right"]


@pytest.mark.parametrize("segment", [np.zeros((25, 3)), np.zeros(4), np.zeros((0, 4)), np.full((2, 4), np.nan)])
def test_what_is_no_segment_is_refused(segment):
    with pytest.raises(ValueError, match=r"CartPole-v1 is finite numbers \[L, 4\]"):
        clip("CartPole-v1", segment)
    with pytest.raises(ValueError, match="no drawing of 'Chess'"):
        describe("Chess", segment)
