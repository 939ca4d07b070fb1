"""Clips beside responses: what is one, where it is kept, and that a row's clip is the one its rater sees."""

import copy
import json
import sqlite3

import pytest

from rlhf_jax import compare
from rlhf_jax.compare import CompareError, Item, Settings, Store
from rlhf_jax.compare.clips import MOST_FRAMES, read_clip, segment_of
from rlhf_jax.compare.items import apart
from rlhf_jax.compare.pairs import read_items
from rlhf_jax.data import DataError, write_jsonl


def clip(x=1, **changed):
    frames = [[["circle", x, 2, 3, "main"]], [["box", x, 2, 3, 4, 45, "ink"], ["line", 0, 0, x, 1, 2, "soft"]]]
    return {"width": 20, "height": 10, "fps": 12, "still": [], "frames": frames, "segment": f"s{x}", **changed}


def row(**changed):
    return {"prompt": "Which?", "a": "two steps", "b": "two steps", "clip_a": clip(1), "clip_b": clip(2), **changed}


def test_a_clip_is_kept_as_it_was():
    assert json.loads(read_clip(clip(), "clip_a", "x:1")) == clip()
    assert segment_of(read_clip(clip(7), "clip_a", "x:1")) == "s7"
    assert read_clip(None, "clip_a", "x:1") == read_clip("", "clip_a", "x:1") == segment_of("") == ""


BAD = {
    "<svg onload=alert(1)>": "an object of width, height, fps and frames",
    **{
        json.dumps(clip(**changed)): found
        for found, changed in {
            "no other fields": {"href": "x"},
            "width: expected a number above 0": {"width": 0},
            "height: expected a number above 0": {"height": True},
            "fps: expected a number above 0 and up to 60": {"fps": 61},
            "segment: expected a name": {"segment": 3},
            "frames: expected a list of 1": {"frames": []},
            "frames: expected a list of 1 to": {"frames": [[]] * (MOST_FRAMES + 1)},
            r"frames\[0\]: expected a list of up to": {"frames": [[["circle", 1, 1, 1, "ink"]] * 65]},
            r"frames\[0\]\[0\]: expected a line": {"frames": [[["image", "x", "ink"]]]},
            r"frames\[0\]\[0\]: expected a line, ": {"frames": [[[["circle"], 1, 1, 1, "ink"]]]},
            r"frames\[0\]\[0\]: expected 'circle', 3 numbers": {"frames": [[["circle", 1, 1, "ink"]]]},
            r"still\[0\]: expected 'circle', 3 numbers": {"still": [["circle", 1, 1, "1", "ink"]]},
            r"frames\[0\]\[0\]: expected a colour": {"frames": [[["circle", 1, 1, 1, "url(//evil)"]]]},
            "expected up to": {"frames": [[["box", *[1 / 3] * 5, "ink"]] * 64] * 90},
        }.items()
    },
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: BAD[text])
def test_what_is_no_clip_is_refused_by_field(text):
    value = json.loads(text) if text.startswith("{") else text
    with pytest.raises(DataError, match=rf"rows:3: field 'clip_b'.*{BAD[text]}"):
        read_clip(value, "clip_b", "rows:3")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9])
def test_a_number_that_cannot_be_drawn_is_refused(number):
    with pytest.raises(DataError, match="3 numbers"):
        read_clip(clip(frames=[[["circle", number, 1, 1, "ink"]]]), "clip_a", "x:1")


def test_pairs_of_one_text_differ_by_their_clips(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [row(), row(clip_b=clip(3)), row(clip_b=clip(1)), row()])
    items = read_items(tmp_path / "rows.jsonl")
    kept, _, notes = apart(items, [])
    assert [segment_of(item.clip_b) for item in kept] == ["s2", "s3"]
    assert len(notes) == 2  # equal clips, and a pair that is there twice
    assert Item("Hi.", "a", "b").id == "e45380ab7433aa5d"  # pairs without clips are called what they always were


def test_one_clip_alone_is_refused(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [row(clip_b=None)])
    with pytest.raises(DataError, match=r"rows\.jsonl:1: field 'clip_a'.*'clip_b' beside two responses"):
        read_items(tmp_path / "rows.jsonl")


def test_what_was_said_of_clips_names_their_segments(tmp_path, make):
    write_jsonl(tmp_path / "rows.jsonl", [row(clip_b=clip(x)) for x in range(2, 8)])
    store, session, raters = make("ann", items=read_items(tmp_path / "rows.jsonl"), golden=[], hidden=0.0)
    lefts = set()
    while shown := session.next(raters["ann"]):
        assert {segment_of(shown.left_clip), segment_of(shown.right_clip)} > {"s1"}
        left = segment_of(shown.left_clip) == "s1"
        lefts.add(left)
        session.answer(raters["ann"], shown.id, "left" if left else "right")
    assert lefts == {True, False}  # a clip goes with its text, on whichever side
    compare.export(store.path, tmp_path / "said.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert {(row["segment_a"], row["segment_b"], row["preference"]) for row in rows} == {
        ("s1", f"s{x}", "a") for x in range(2, 8)
    }
    assert read_items(tmp_path / "said.jsonl")  # rows of an export are rows


def test_a_store_from_before_there_were_clips_is_read(tmp_path, make):
    store, _, _ = make("ann")
    before = copy.deepcopy(store.items)
    with sqlite3.connect(store.path) as db:
        for side in "ab":
            db.execute(f"ALTER TABLE items DROP COLUMN clip_{side}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert Store.open(store.path).items == before


def test_a_store_keeps_clips(tmp_path):
    made = read_clip(clip(), "clip_a", "x:1")
    item = Item("Which?", "a", "b", clip_a=made, clip_b=made)
    store = Store.create(tmp_path / "said.sqlite", [item], [], Settings())
    assert store.items == {item.id: item}
    with pytest.raises(CompareError, match="twice"):
        Store.create(tmp_path / "other.sqlite", [item, item], [], Settings())
