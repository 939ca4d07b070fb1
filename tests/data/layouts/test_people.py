"""Rows that say who said it: rankings, single ratings, and the fields beside any opinion."""

import datetime
import re

import numpy as np
import pytest

from rlhf_jax.data import Comparison, DataError, Demonstration, layouts
from rlhf_jax.data.layouts.table import recognise, unknown_fields
from rlhf_jax.data.rows import Provenance

PAIR = {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": "a"}
RANKED = {"prompt": "Hi.", "responses": ["So-so.", "Best.", "Equal.", "Worst."], "ranking": [2, 1, 2, 4]}


def test_a_ranking_in_any_of_its_forms_is_the_votes_of_all_pairs():
    votes = [[0, 0, 0.5, 1], [1, 0, 1, 1], [0.5, 0, 0, 1], [0, 0, 0, 0]]
    for ranking in ([2, 1, 2, 4], [2, 1, 2, 3], [[1], [0, 2], [3]], [[1], [2, 0], [3]]):
        found = layouts.judged({**RANKED, "ranking": ranking}, "r:1")
        assert found.votes.tolist() == votes
        assert found.said is None
    assert recognise(RANKED).name == "rankings"
    assert layouts.demonstration(RANKED, "r:1") == Demonstration("Hi.", "Best.", "r:1")
    assert layouts.prompt(RANKED, "r:1").prompt == "Hi."
    # Two responses are a pair, with the same votes as a pair of ours.
    two = layouts.judged({"prompt": "Hi.", "responses": ["a", "b"], "ranking": [2, 1]}, "r:1")
    assert two.votes.tolist() == layouts.judged({**PAIR, "preference": "b"}, "p:1").votes.tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ranking": [0, 1, 2, 3]}, "a flat list with a 0 in it could be ranks or places, found [0, 1, 2, 3]"),
        ({"ranking": [1, 2, 3]}, "field 'ranking': expected 4 ranks, 1 for the best"),
        ({"ranking": [2, 3, 3, 4]}, "field 'ranking': expected 4 ranks, 1 for the best"),
        ({"ranking": [1, 2, 2, 1.5]}, "field 'ranking': expected a list of whole numbers"),
        ({"ranking": [[0], [1], [1, 3]]}, "expected groups that hold each place from 0 to 3 once, best first"),
        ({"ranking": None}, "field 'ranking': expected a list of whole numbers, a rank for each response, found None"),
        ({"responses": ["a"]}, "field 'responses': expected a list of 2 texts or more"),
        ({"responses": ["a", "", "c", "d"]}, "field 'responses[1]': expected non-empty text"),
    ],
)
def test_a_bad_ranking_names_its_field(change, says):
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        layouts.comparison({**RANKED, **change}, "r.jsonl:7")
    assert str(caught.value).startswith("r.jsonl:7: ")


def test_one_rating_is_a_rated_response_of_one_rater():
    row = {"prompt": "Hi.", "response": "Hello!", "rating": 4, "rater": "ann"}
    found = layouts.judged(row, "r:1")
    assert (found.ratings.tolist(), found.said) == ([4.0], Provenance(rater="ann"))
    assert layouts.demonstration(row, "r:1") == Demonstration("Hi.", "Hello!", "r:1")
    with pytest.raises(DataError, match="fields 'rating' and 'ratings': expected one of them, found both"):
        layouts.judged({**row, "ratings": [4]}, "r:1")
    with pytest.raises(DataError, match="field 'rating': expected a finite number, or a list in 'ratings'"):
        layouts.judged({**row, "rating": [4]}, "r:1")


def test_a_response_that_nobody_has_rated_is_a_demonstration():
    row = {"prompt": "Hi.", "response": "Hello!", "rating": None}
    assert layouts.demonstration(row, "d:1") == Demonstration("Hi.", "Hello!", "d:1")


def test_the_known_answer_is_what_is_imitated():
    wrong = {**PAIR, "preference": "b", "golden": "a"}
    assert layouts.demonstration(wrong, "p:1").response == "Hello!"
    assert layouts.demonstration({**PAIR, "preference": "b"}, "p:1").response == "No."


def test_the_fields_beside_an_opinion_are_read():
    said = {
        "rater": "ann",
        "time": "2026-11-27T12:30:00+02:00",
        "confidence": 0.5,
        "source": "person",
        "round": 2,
        "golden": "b",
    }
    utc = datetime.datetime(2026, 11, 27, 10, 30, tzinfo=datetime.UTC).timestamp()
    expected = Provenance("ann", utc, 0.5, "person", 2, 0.0)
    assert layouts.judged({**PAIR, **said}, "p:1").said == expected
    assert not unknown_fields({**PAIR, **said})  # none is left alone any more
    # Without a zone a time is in UTC, and a number is seconds; raters may be numbered.
    for time in ("2026-11-27T10:30:00", "2026-11-27T10:30:00Z", utc):
        assert layouts.judged({**PAIR, "time": time, "rater": 7}, "p:1").said == Provenance("7", utc)
    tie = layouts.judged({**PAIR, "preference": "tie", "both_bad": True, "golden": "tie"}, "p:1")
    assert tie.said == Provenance(golden=0.5, both_bad=True)
    chosen = {"prompt": "Hi.", "chosen": "Hello!", "rejected": "No.", "golden": "chosen"}
    assert layouts.judged(chosen, "p:1").said == Provenance(golden=1.0)
    assert layouts.labelled({"prompt": "P", "response": "R", "label": True, "rater": "bo"}, "l:1").said.rater == "bo"
    assert layouts.judged({**PAIR, **dict.fromkeys(said)}, "p:1").said is None  # null says nothing


def test_beside_a_demonstration_such_fields_mean_nothing_and_are_left_alone():
    row = {"prompt": "Hi.", "response": "Hello!", "source": ["web"], "time": "noon"}
    assert layouts.demonstration(row, "d:1") == Demonstration("Hi.", "Hello!", "d:1")
    assert unknown_fields(row) == {"source": 1, "time": 1}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rater", ["ann"], "expected non-empty text, found ['ann'] (list)"),
        ("time", "noon", "expected a time in ISO 8601, as 2026-11-27T12:30:00Z, or in seconds since 1970, or another"),
        ("time", 1.8e12, "expected a time in ISO 8601"),  # milliseconds
        ("confidence", 5, "expected a number from 0 to 1, or another name for the field"),
        ("source", 3, "expected non-empty text, found 3 (int)"),
        ("round", 1.5, "expected a whole number, at least 0"),
        ("golden", "chosen", "expected the known answer, one of 'a', 'b', 'tie'"),
        ("both_bad", 1, "expected true or false, found 1 (int)"),
        ("both_bad", True, "expected a tie of two responses beside it, found another opinion"),
    ],
)
def test_a_bad_field_beside_an_opinion_is_named(field, value, says):
    with pytest.raises(DataError, match=re.escape(f"p.jsonl:3: field '{field}': {says}")):
        layouts.judged({**PAIR, field: value}, "p.jsonl:3")


def test_a_golden_answer_stands_beside_a_pair_alone():
    for row in (RANKED, {"prompt": "Hi.", "response": "Hello!", "rating": 4}):
        with pytest.raises(DataError, match="field 'golden': expected none: a golden answer stands beside a pair"):
            layouts.judged({**row, "golden": "a"}, "p:1")


def test_rows_that_are_made_as_before_have_no_provenance():
    assert Comparison("P", ("a", "b"), np.zeros((2, 2), np.float32), "x:1").said is None
