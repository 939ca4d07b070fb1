"""The table of labels: every rater's word on every pair, whichever response was shown first."""

import numpy as np

from rlhf_jax.data import DataConfig, label_table, layouts
from rlhf_jax.data.readers.jsonl import write_jsonl
from rlhf_jax.data.reading import COMPARE, Source


def pair(rater, a, b, preference, **said):
    row = {"prompt": "Hi.", "a": a, "b": b, "preference": preference, "rater": rater, **said}
    return layouts.judged(row, "x:1")


def test_a_pair_is_one_item_in_either_order():
    rows = [
        pair("ann", "x", "y", "a"),
        pair("bo", "y", "x", "a"),
        pair("cy", "y", "x", 0.5, time=9),
        pair("ann", "x", "z", 0.25),
    ]
    found = label_table(rows)
    assert found.raters == ("ann", "bo", "cy")
    assert found.items == (("Hi.", "x", "y"), ("Hi.", "x", "z"))
    assert found.labels.tolist() == [[0, 1, 2], [1, -1, -1]]
    np.testing.assert_array_equal(found.times, [[np.nan, np.nan, 9], [np.nan] * 3])
    assert found.golden.tolist() == [-1, -1]


def test_of_two_answers_to_the_same_pair_the_later_one_counts():
    by_time = [pair("ann", "x", "y", "a", time=20), pair("ann", "x", "y", "b", time=10)]
    assert label_table(by_time).labels.tolist() == [[0]]
    by_place = [pair("ann", "x", "y", "a"), pair("ann", "y", "x", "a")]
    assert label_table(by_place).labels.tolist() == [[1]]


def test_a_known_answer_is_turned_with_its_pair():
    rows = [pair("ann", "x", "y", "a", golden="a"), pair("bo", "z", "x", "a", golden="a"), pair("bo", "y", "x", "b")]
    found = label_table(rows)
    assert found.golden.tolist() == [0, 1]  # z is right, and x comes before it
    assert found.labels.tolist() == [[0, 0], [-1, 1]]


def test_rankings_and_ratings_are_all_pairs_of_a_rater():
    ranked = {"prompt": "Hi.", "responses": ["z", "x", "y"], "ranking": [1, 2, 2], "rater": "ann"}
    rated = [
        {"prompt": "Hi.", "response": text, "rating": rating, "rater": "bo"}
        for text, rating in (("x", 3), ("y", 1), ("z", 5))
    ]
    found = label_table([layouts.judged(row, "x:1") for row in (ranked, *rated)])
    named = dict(zip(found.items, found.labels.tolist(), strict=True))
    assert named == {("Hi.", "x", "z"): [1, 1], ("Hi.", "y", "z"): [1, 1], ("Hi.", "x", "y"): [2, 0]}


def test_of_very_many_ratings_not_all_pairs_are_laid_out():
    """Two raters in orders of their own are still asked about the same pairs."""
    texts = [f"text {i:03d}" for i in range(60)]
    rows = [
        layouts.judged({"prompt": "Hi.", "response": text, "rating": i, "rater": rater}, "x:1")
        for rater, own in (("ann", texts), ("bo", texts[::-1]))
        for i, text in enumerate(own)
    ]
    found = label_table(rows)
    assert len(found.items) == sum(min(25, 59 - i) for i in range(60))
    assert (found.labels == [[1, 0]]).all()


def test_rows_without_a_rater_are_passed_over():
    row = {"prompt": "Hi.", "a": "x", "b": "y", "preference": "a"}
    found = label_table([layouts.judged(row, "x:1")])
    assert (found.labels.shape, found.raters) == ((0, 0), ())


def test_golden_rows_are_in_no_part(tmp_path):
    """They are taken out before the parts are cut, so that no part is made of them."""
    rows = [{"prompt": f"p{i}", "a": "x", "b": "y", "preference": "a", "rater": "ann"} for i in range(20)]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, *({**row, "golden": "b"} for row in rows[:3])])
    parts = Source(DataConfig(source=str(tmp_path / "rows.jsonl"))).parts(layouts.judged, COMPARE)
    assert len(parts.golden) == 3
    assert sorted(row.prompt for part in parts[:3] for row in part) == sorted(row["prompt"] for row in rows)
