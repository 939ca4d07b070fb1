"""Pairs to compare from files: any known layout, with an opinion or without, two responses or several."""

import pytest

from rlhf_jax.compare import CompareError, Item
from rlhf_jax.compare.items import apart
from rlhf_jax.compare.pairs import read_items
from rlhf_jax.data import DataError, write_jsonl


@pytest.fixture
def read(tmp_path):
    def read(*rows, **options):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        return read_items(tmp_path / "rows.jsonl", **options)

    return read


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi.", "a": "Hello!", "b": "No."},
        {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": "b"},
        {"prompt": "Hi.", "chosen": "Hello!", "rejected": "No."},
        {"prompt": "Hi.", "responses": ["Hello!", "No."]},
        {"prompt": "Hi.", "responses": ["Hello!", "No."], "ranking": [2, 1]},
        {"history": "Hi.", "human_ref_A": "Hello!", "human_ref_B": "No.", "labels": 1},
        {"prompt": "Hi.", "a": "Hello!", "b": "No.", "rater": "ann", "time": 3.0, "pair": "x"},
    ],
)
def test_a_row_of_two_responses_is_a_pair_whatever_it_says_of_them(read, row):
    assert read(row) == [Item("Hi.", "Hello!", "No.")]


def test_chats_stay_chats(read):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    (item,) = read({"prompt": turns, "a": "Hello!", "b": "No."})
    assert [turn._asdict() for turn in item.prompt] == turns


def test_the_samples_of_a_run_name_who_said_what(read):
    (item,) = read({"prompt": "Hi.", "before": "No.", "after": "Hello!", "gold_before": 0.1})
    assert item == Item("Hi.", "No.", "Hello!", model_a="before", model_b="after")


def test_of_k_responses_all_pairs_or_neighbours(read):
    row = {"prompt": "Hi.", "responses": ["1", "2", "3", "4"]}
    assert [(x.a, x.b) for x in read(row, of_k="neighbours")] == [("1", "2"), ("2", "3"), ("3", "4")]
    assert [x.a + x.b for x in read(row)] == ["12", "13", "14", "23", "24", "34"]


def test_samples_of_one_prompt_are_put_together(read):
    rows = [{"prompt": prompt, "response": text} for prompt, text in (("Hi.", "1"), ("Ho.", "x"), ("Hi.", "2"))]
    assert read(*rows) == [Item("Hi.", "1", "2")]


def test_golden_items_are_marked_or_a_whole_file(read):
    pair = {"prompt": "Hi.", "a": "Hello!", "b": "No."}
    golden = [
        {**pair, "golden": "a", "explanation": "It answers."},
        {**pair, "preference": 0.2},
        {"prompt": "Hi.", "chosen": "Hello!", "rejected": "No.", "golden": "rejected"},
        {**pair, "preference": "tie"},
        {"prompt": "Hi.", "responses": ["Hello!", "No."], "ranking": [2, 1]},
    ]
    assert [item.golden for item in read(*golden)] == ["a", None, "b", None, None]
    found = read(*golden, golden=True)
    assert [item.golden for item in found] == ["a", "b", "b", "tie", "b"]
    assert found[0].explanation == "It answers."


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "Hi.", "a": "Hello!", "b": "No.", "golden": 1}, "field 'golden'"),
        ({"prompt": "Hi.", "responses": ["1", "2", "3"], "golden": "a"}, "beside two responses"),
        ({"prompt": "Hi.", "responses": ["1"]}, "at least two"),
        ({"prompt": "Hi.", "responses": ["1", 2]}, "responses\\[1\\]"),
        ({"prompt": "Hi.", "a": "Hello!", "b": ""}, "field 'b'"),
        ({"prompt": "Hi.", "a": "Hello!", "b": "No.", "images": ["x.png"]}, "field 'images'"),
        ({"prompt": "Hi.", "a": "Hello!", "b": "No.", "explanation": 3}, "field 'explanation'"),
    ],
)
def test_a_bad_row_is_named(read, row, named):
    with pytest.raises(DataError, match=f"rows.jsonl:1: .*{named}"):
        read(row)


def test_a_golden_file_needs_answers_and_a_file_needs_pairs(read):
    with pytest.raises(CompareError, match="has no answer"):
        read({"prompt": "Hi.", "a": "Hello!", "b": "No."}, golden=True)
    with pytest.raises(CompareError, match="no two responses to one prompt"):
        read({"prompt": "Hi.", "response": "Hello!"})


def test_what_nobody_can_compare_is_left_out():
    pair, golden = Item("Hi.", "Hello!", "No."), Item("Hi.", "Hello!", "No.", golden="a")
    kept, known, notes = apart([pair, Item("Ho.", "x ", "x")], [golden])
    assert (kept, known) == ([], [golden])  # the golden one says more
    assert len(notes) == 2
    with pytest.raises(CompareError, match="no pair to compare"):
        apart([Item("Ho.", "x", "x")], [])


def test_a_pair_with_an_empty_response_is_left_out_as_its_row_could_not_be_trained_on():
    kept, _, notes = apart([Item("Hi.", "", "Hello!"), Item("Ho.", "Yes.", " \n"), Item("Hm.", "Yes.", "No.")], [])
    assert [item.prompt for item in kept] == ["Hm."]
    assert notes == ["2 pairs with an empty response are left out"]
