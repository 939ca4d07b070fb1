"""JSONL: any bytes, any values in any field, in every layout and for every purpose."""

import gzip
import json

import pytest
from fuzzing import TEXTS, VALUES, changed, mutated, read_or_refused, rows, share
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data import DataError, encode, layouts, read_jsonl, train_tokenizer
from rlhf_jax.data.layouts.best_of import choice
from rlhf_jax.data.layouts.provenance import PROVENANCE
from rlhf_jax.data.layouts.table import LAYOUTS

PURPOSES = [vars(layouts)[name] for name in layouts.__all__ if name != "preferred_first"]
FIELDS = {column for layout in LAYOUTS for column in layout.columns}
FIELDS |= {
    *PROVENANCE,
    "fields",
    "data",
    "annotations",
    "input",
    "preference",
    "score_A",
    "score_B",
    "score_chosen",
    "score_rejected",
    "ratings",
    "response",
}
ROLES = st.sampled_from(["system", "user", "assistant", "human", "gpt", "tool", "User"])
TURNS = st.one_of(
    st.fixed_dictionaries({"role": st.one_of(ROLES, VALUES), "content": st.one_of(TEXTS, VALUES)}),
    st.fixed_dictionaries({"from": st.one_of(ROLES, VALUES), "value": st.one_of(TEXTS, VALUES)}),
    VALUES,
)
CHATS = st.one_of(st.lists(TURNS, max_size=4), st.dictionaries(st.sampled_from(["role", "content"]), st.lists(TEXTS)))
ROWS = rows(FIELDS, st.one_of(VALUES, CHATS, TEXTS, st.sampled_from([0, 1, True, "a", "tie", 0.5])))
GOOD = [
    {"prompt": "Say hello.", "response": "Hello!"},
    {"prompt": [{"role": "user", "content": "Hi."}], "completion": [{"role": "assistant", "content": "Hello!"}]},
    {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}]},
    {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello!"}]},
    {"instruction": "Say hello.", "input": "", "output": "Hello!"},
    {"prompt": "Hi.", "chosen": "Hello!", "rejected": "No."},
    {"chosen": "\n\nHuman: Hi.\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi.\n\nAssistant: No."},
    {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": 0.75},
    {"prompt": "Hi.", "a": "Hello!", "b": "No.", "ratings": {"a": [1, 2], "b": [3]}},
    {"prompt": "Hi.", "completion": "Hello!", "label": True},
    {"prompt": "Hi.", "response": "Hello!", "ratings": [3, 4]},
    {"history": "Why?", "human_ref_A": "No.", "human_ref_B": "Rain.", "labels": 0, "score_A": 1, "score_B": 2},
    {
        "info": {"subreddit": "a", "title": "b", "post": "c"},
        "summaries": [{"text": "d"}, {"text": "e"}],
        "choice": 1,
    },
    {"text": "Once upon a time"},
    {"prompt": "Hi.", "responses": ["Hello!", "No.", "Hey."], "ranking": [1, 3, 1], "rater": "ann", "round": 1},
    {"prompt": "Hi.", "response": "Hello!", "rating": 4, "rater": 7, "time": "2026-11-27T12:30:00Z"},
    {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": "tie", "both_bad": True, "golden": "a", "time": 1.5},
]
CHOICES = [
    {"prompt": "Hi.", "chosen": ["Hello!", "Hey!"], "rejected": ["No.", "Go."], "num_correct": 2},
    {"prompt": "Hi.", "responses": ["No.", "Hello!", "Hey!"], "best": [1, 2]},
    {"prompt": [{"role": "user", "content": "Hi."}], "responses": ["No.", "Hello!"], "best": 1},
]
RECORDS = [
    {"fields": {"prompt": "Hi.", "response_1": "Hello!", "response_2": "No."}, "responses": responses}
    for responses in (
        {"better": [{"value": "response_1", "user_id": "ann"}], "rating_2": [{"value": 3, "user_id": "bo"}]},
        {
            "order": [
                {"value": [{"value": "response_2", "rank": 1}, {"value": "response_1", "rank": 1}], "user_id": "cy"}
            ]
        },
        [{"user_id": "ann", "values": {"better": {"value": "tie"}}, "status": "submitted"}],
    )
]
RECORDS += [
    {
        "data": data,
        "annotations": [{"id": 1, "completed_by": 2, "created_at": "2026-11-27T12:30:00Z", "result": [result]}],
    }
    for data, result in (
        ({"prompt": "Hi.", "answer1": "Hello!", "answer2": "No."}, {"type": "pairwise", "value": {"selected": "left"}}),
        ({"prompt": "Hi.", "answer1": "Hello!"}, {"type": "rating", "to_name": "answer1", "value": {"rating": 4}}),
        (
            {"prompt": "Hi.", "items": [{"id": "x", "body": "Hello!"}, {"id": "y", "title": "No."}]},
            {"type": "ranker", "value": {"ranker": {"rank": ["y", "x"]}}},
        ),
    )
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a good film"], vocab_size=260)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jsonl")


def read(file, purpose):
    """As a stage does: with bad rows an error, and with bad rows left out, each with a reason."""
    with read_or_refused(DataError):
        read_jsonl(file, purpose)
    with read_or_refused(DataError):
        good, bad = read_jsonl(file, purpose, on_bad_row="skip")
        assert all(isinstance(reason, str) and reason for reason in bad)
        return good
    return []


@share(40)
@given(ROWS, st.sampled_from([*PURPOSES, choice]))
def test_any_row(row, purpose):
    with read_or_refused(DataError):
        purpose(row, "rows.jsonl:1")


@share(30)
@given(st.sampled_from(GOOD).flatmap(changed).filter(lambda row: isinstance(row, dict)), st.sampled_from(PURPOSES))
def test_a_good_row_changed(tokenizer, row, purpose):
    """What is read is also encoded: no half of a character gets as far as the tokenizer."""
    with read_or_refused(DataError):
        found = purpose(row, "rows.jsonl:1")
        if hasattr(found, "response") or hasattr(found, "responses") or hasattr(found, "messages"):
            encode.encode(found, tokenizer)


@share(20)
@given(st.sampled_from([*GOOD, *CHOICES]).flatmap(changed).filter(lambda row: isinstance(row, dict)))
def test_a_choice_changed(row):
    with read_or_refused(DataError):
        found = choice(row, "rows.jsonl:1")
        assert 0 <= found.right < len(found.responses)


@share(30)
@given(st.sampled_from(RECORDS).flatmap(changed).filter(lambda row: isinstance(row, dict)))
def test_a_record_of_a_labelling_tool_changed(record):
    """What is unfolded is a row of ours, which is read or refused like any other."""
    with read_or_refused(DataError):
        for where, row in layouts.unfold(record, "export.json row 0") or []:
            layouts.judged(row, where)


@share(20)
@given(
    st.one_of(
        mutated("\n".join(map(json.dumps, GOOD)).encode()),
        mutated(json.dumps(GOOD).encode()),
        st.binary(max_size=200),
        st.lists(VALUES.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode()),
    ),
    st.sampled_from(["rows.jsonl", "rows.json"]),
    st.sampled_from(PURPOSES),
)
def test_any_bytes(folder, data, name, purpose):
    (folder / name).write_bytes(data)
    read(folder / name, purpose)


@share(10)
@given(mutated(gzip.compress("\n".join(map(json.dumps, GOOD)).encode(), mtime=0)))
def test_a_damaged_archive(folder, data):
    (folder / "rows.jsonl.gz").write_bytes(data)
    read(folder / "rows.jsonl.gz", layouts.prompt)
