"""Exports of Argilla and Label Studio: one record becomes a row for each rater, by every kind of question."""

import json

import pytest

from rlhf_jax import stages
from rlhf_jax.data import DataConfig, DataError, layouts
from rlhf_jax.data.layouts.exports import unfold, unfold_all
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.reading import COMPARE, Source
from rlhf_jax.data.rows import Message, Provenance
from rlhf_jax.stages.data_check import examine
from rlhf_jax.stages.evaluate.rows import read_source

ANN, BO = "11111111-aaaa", "22222222-bbbb"
TEXTS = {"response_1": "Hello!", "response_2": "No."}


def answer(question, value, user=ANN):
    return {question: [{"value": value, "user_id": user}]}


def argilla(responses, **fields):
    """A record as ``rg.Dataset.records.to_json`` writes it."""
    return {
        "id": "1",
        "fields": {"prompt": "Hi.", **(fields or TEXTS)},
        "metadata": {},
        "suggestions": {"better": {"value": "response_2", "score": None, "agent": "gpt"}},
        "responses": responses,
        "vectors": {},
        "_server_id": "x",
    }


def rows(record):
    return [row for _, row in unfold(record, "x.json row 0")]


def task(*results, data=None, **changes):
    """A task of Label Studio's JSON export with an annotation for each list of results."""
    annotations = [
        {
            "id": 10 + i,
            "completed_by": i + 1,
            "result": result,
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": f"2026-11-27T12:0{i}:00.000000Z",
            "lead_time": 4.2,
            **changes.get(f"_{i}", {}),
        }
        for i, result in enumerate(results)
    ]
    data = data or {"prompt": "Hi.", "answer1": "Hello!", "answer2": "No."}
    return {"id": 1, "data": data, "annotations": annotations, "predictions": [], "project": 3}


def test_a_table_of_argilla_is_put_together_again():
    """The columns that ``to_datasets`` makes; a draft says nothing, and what has no state was submitted."""
    row = {
        "id": "1",
        "status": "completed",
        "_server_id": "x",
        "prompt": "Hi.",
        **TEXTS,
        "better.responses": ["response_2", "response_1", "response_1"],
        "better.responses.users": [ANN, BO, "cy"],
        "better.responses.status": ["submitted", None, "draft"],
        "better.suggestion": "response_1",
    }
    assert [(x["rater"], x["preference"]) for x in rows(row)] == [(ANN, "b"), (BO, "a")]
    assert rows({**row, "better.responses": [], "better.responses.users": [], "better.responses.status": []}) == []


def test_the_short_json_of_label_studio_is_refused_by_name():
    row = {"id": 1, "prompt": "Hi.", "answer1": "A", "answer2": "B", "pw": "left", "annotation_id": 3}
    with pytest.raises(DataError, match="JSON_MIN: export it as JSON"):
        unfold({**row, "lead_time": 2.5}, "x.json row 0")


def pairwise(selected):
    return {"from_name": "pw", "to_name": "a1,a2", "type": "pairwise", "value": {"selected": selected}}


def choice(label):
    return {"from_name": "better", "to_name": "a1", "type": "choices", "value": {"choices": [label]}}


def test_argilla_two_people_are_two_rows():
    record = argilla(
        {
            "better": [{"value": "response_1", "user_id": ANN}, {"value": "response_2", "user_id": BO}],
            "comment": [{"value": "Rude.", "user_id": ANN}],
        }
    )
    first, second = unfold(record, "x.json row 0")
    assert first == (
        f"x.json row 0, user '{ANN}'",
        {"prompt": "Hi.", "a": "Hello!", "b": "No.", "preference": "a", "source": "person", "rater": ANN},
    )
    assert (second[1]["preference"], second[1]["rater"]) == ("b", BO)
    found = layouts.judged(first[1], first[0])
    assert found.said == Provenance(rater=ANN, source="person")
    # Whoever is not named by the export has no name here, and several of them are not taken for one.
    nobody = [{"value": f"response_{i}", "user_id": "None"} for i in (1, 2, 1)]
    made = rows(argilla({"better": nobody}))
    assert [(row["preference"], "rater" in row) for row in made] == [("a", False), ("b", False), ("a", False)]


def test_argilla_of_version_1_says_the_same_by_user():
    responses = [
        {"user_id": ANN, "values": {"better": {"value": "response_1"}}, "status": "submitted"},
        {"user_id": BO, "values": {"better": {"value": "response_2"}}, "status": "draft"},
        {"user_id": BO, "values": {}, "status": "discarded"},
    ]
    assert rows(argilla(responses)) == rows(argilla(answer("better", "response_1")))


@pytest.mark.parametrize(
    ("label", "preference"),
    [
        ("response_1", "a"),
        ("2", "b"),
        ("Response 2", "b"),
        ("tie", "tie"),
        ("Both are good", None),
        ("both_good", "tie"),
    ],
)
def test_labels_name_a_response_in_many_ways(label, preference):
    if preference is None:
        with pytest.raises(DataError, match=r"x\.json row 0.*: field 'responses\.better': expected a response"):
            rows(argilla(answer("better", label)))
        return
    assert rows(argilla(answer("better", label)))[0]["preference"] == preference


def test_a_label_that_both_are_bad_is_a_tie_that_says_so():
    row = rows(argilla(answer("better", "neither")))[0]
    assert layouts.judged(row, "x").said.both_bad
    assert layouts.judged(row, "x").votes.tolist() == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize(
    "value",
    [
        ["response_2", "response_3", "response_1"],
        [{"value": "response_2", "rank": 1}, {"value": "response_3", "rank": 2}, {"value": "response_1", "rank": 3}],
        [{"value": "response_1", "rank": 7}, {"value": "response_3", "rank": 4}, {"value": "response_2", "rank": 1}],
    ],
)
def test_argilla_a_ranking_question_is_a_ranking(value):
    (row,) = rows(argilla(answer("order", value), response_1="x", response_2="y", response_3="z"))
    assert (row["responses"], row["ranking"]) == (["x", "y", "z"], [3, 1, 2])
    assert layouts.demonstration(row, "x").response == "y"


def test_argilla_equal_ranks_are_ties():
    value = [{"value": "response_1", "rank": 2}, {"value": "response_2", "rank": 2}]
    (row,) = rows(argilla(answer("order", value)))
    assert layouts.judged(row, "x").votes.tolist() == [[0, 0.5], [0.5, 0]]


def test_argilla_a_rating_question_for_each_response_is_a_row_each():
    made = rows(argilla({**answer("rating_1", 4), **answer("rating_2", 2), **answer("why", "Rude.")}))
    assert [(row["response"], row["rating"]) for row in made] == [("Hello!", 4), ("No.", 2)]
    assert [row.ratings.tolist() for row in (layouts.judged(row, "x") for row in made)] == [[4.0], [2.0]]
    (one,) = rows(argilla(answer("quality", 5), response="Hello!"))
    assert (one["response"], one["rating"]) == ("Hello!", 5)
    with pytest.raises(DataError, match=r"field 'responses\.quality': expected a response"):
        rows(argilla(answer("quality", 5)))  # which of the two?


def test_argilla_a_chat_field_is_a_chat():
    record = argilla(answer("better", "response_1"))
    record["fields"]["prompt"] = [{"role": "user", "content": "Hi."}]
    assert layouts.judged(rows(record)[0], "x").prompt == (Message("user", "Hi."),)


def test_label_studio_a_pairwise_result_is_a_preference():
    made = unfold(task([pairwise("left")], [pairwise("right")]), "x.json row 0")
    assert [row["preference"] for _, row in made] == ["a", "b"]
    where, row = made[0]
    assert where == "x.json row 0, annotation 10"
    said = layouts.judged(row, where).said
    assert (said.rater, said.source) == ("1", "person")
    assert said.time == layouts.judged({**row, "time": "2026-11-27T12:00:00+00:00"}, "x").said.time
    email = task([pairwise("left")], _0={"completed_by": {"id": 7, "email": "ann@example.org"}})
    assert rows(email)[0]["rater"] == "ann@example.org"


def test_label_studio_what_was_cancelled_or_left_empty_gives_no_row():
    made = rows(task([pairwise("left")], [], [pairwise("left")], _2={"was_cancelled": True}))
    assert len(made) == 1
    assert rows(task()) == []


def test_label_studio_ground_truth_is_the_golden_answer_of_the_others():
    made = rows(task([pairwise("left")], [pairwise("right")], _0={"ground_truth": True}))
    assert [(row["rater"], row["preference"], row["golden"]) for row in made] == [("2", "b", "a")]
    # Alone it is what somebody said, like any other.
    (alone,) = rows(task([pairwise("left")], _0={"ground_truth": True}))
    assert "golden" not in alone


@pytest.mark.parametrize(("label", "preference"), [("answer2", "b"), ("Tie", "tie"), ("Answer 1 is better", "a")])
def test_label_studio_choices_name_a_response(label, preference):
    assert rows(task([choice(label)]))[0]["preference"] == preference


def test_label_studio_a_ranker_orders_items():
    items = [{"id": f"m{i}", "title": f"Model {i}", "body": text} for i, text in enumerate("xyz")]
    for value in (["m2", "m0", "m1"], {"rank": ["m2", "m0", "m1"]}, {"_": [], "best": ["m2", "m0", "m1"]}):
        result = {"from_name": "rank", "to_name": "items", "type": "ranker", "value": {"ranker": value}}
        (row,) = rows(task([result], data={"prompt": "Hi.", "items": items}))
        assert (row["responses"], row["ranking"]) == (["x", "y", "z"], [2, 3, 1])
    with pytest.raises(DataError, match=r"annotation 10: field 'annotations\.result\.value\.ranker': expected the ids"):
        rows(
            task(
                [{**result, "value": {"ranker": {"good": ["m2"], "bad": ["m0", "m1"]}}}],
                data={"prompt": "Hi.", "items": items},
            )
        )


def test_label_studio_ratings_name_their_response():
    made = rows(
        task(
            [
                {"from_name": "r1", "to_name": "answer1", "type": "rating", "value": {"rating": 4}},
                {"from_name": "r2", "to_name": "answer2", "type": "number", "value": {"number": 1}},
                {"from_name": "why", "to_name": "answer2", "type": "textarea", "value": {"text": ["Rude."]}},
            ]
        )
    )
    assert [(row["response"], row["rating"]) for row in made] == [("Hello!", 4), ("No.", 1)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"text1": "Hello!", "text2": "No."}, "field 'data': expected a prompt, one of "),
        ({"prompt": "Hi."}, "field 'data': expected responses, as 'response_1' and 'response_2', or one 'response'"),
        ({"prompt": "Hi.", "answer1": "Hello!", "answer2": ""}, r"field 'data\.answer2': expected non-empty text"),
    ],
)
def test_what_nothing_can_be_compared_in_is_named(data, says):
    with pytest.raises(DataError, match=rf"x\.json row 0.*{says}"):
        rows(task([pairwise("left")], data=data))


def test_rows_of_ours_are_no_export():
    ours = {"prompt": "Hi.", "responses": ["a", "b"], "ranking": [1, 2]}
    assert unfold(ours, "x:1") is None
    assert unfold_all([("x:1", ours)]).rows == [("x:1", ours)]


def test_a_file_of_records_is_read_as_its_rows(tmp_path, capsys):
    """Both a list and one object a line; the record that nobody answered is counted, and a bad one is named."""
    records = [
        argilla({"better": [{"value": f"response_{1 + (i + k) % 2}", "user_id": u} for k, u in enumerate((ANN, BO))]})
        for i in range(4)
    ]
    for i, record in enumerate(records):
        record["fields"]["prompt"] = f"Hi {i}."
    (tmp_path / "export.json").write_text(json.dumps([*records, argilla({})]))
    (tmp_path / "export.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, argilla({})]))
    for name in ("export.json", "export.jsonl"):
        found = read_rows(tmp_path / name, layouts.judged, "error")
        assert len(found) == 8
        assert {row.said.rater for row in found} == {ANN, BO}
        assert "1 records hold nobody's answer and give no row" in capsys.readouterr().err
    parts = Source(DataConfig(source=str(tmp_path / "export.jsonl"))).parts(layouts.judged, COMPARE)
    assert sum(len(part) for part in parts[:3]) == 8
    assert "left alone" not in capsys.readouterr().err
    # So do rlhf evaluate and rlhf data check.
    rows_of_check = Source(DataConfig(source=str(tmp_path / "export.jsonl"), on_bad_row="skip")).as_they_are(COMPARE)
    assert [len(part[0]) for part in rows_of_check if part is not None] == [8]
    assert len(read_source(str(tmp_path / "export.jsonl"), "", layouts.comparison, "error")[0]) == 8
    bad = argilla(answer("better", "blue"))
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, bad]))
    with pytest.raises(DataError, match=r"bad\.jsonl:5, user '1.*field 'responses\.better'"):
        read_rows(tmp_path / "bad.jsonl", layouts.judged, "error")
    assert len(read_rows(tmp_path / "bad.jsonl", layouts.judged, "skip")) == 8


def test_a_file_of_records_is_checked_and_evaluated_as_its_rows(tmp_path):
    """Of three people one says the opposite, so the response that two prefer is right in two rows of three."""
    everybody = ((ANN, 1), (BO, 1), ("cy", 2))
    record = argilla({"better": [{"value": f"response_{k}", "user_id": user} for user, k in everybody]})
    records = [{**record, "fields": {**record["fields"], "prompt": f"Hi {i}."}} for i in range(12)]
    file = tmp_path / "export.json"
    file.write_text(json.dumps([*records, argilla({})]))
    check = examine(DataConfig(source=str(file)))
    assert (check.rows, check.bad) == (36, 0)
    first = record["fields"]["response_1"]
    found = stages.evaluate(lambda prompts, responses: [float(text == first) for text in responses], file)
    assert (found.quality.n, found.quality.accuracy) == (36, 2 / 3)
