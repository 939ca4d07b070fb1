import numpy as np
import pytest

from rlhf_jax import feedback
from rlhf_jax.data import (
    DataError,
    Demonstration,
    Dialogue,
    LabelledResponse,
    Message,
    parse_alpaca,
    parse_comparison,
    parse_demonstration,
    parse_dialogue,
    parse_labelled,
    parse_prompt,
    parse_rated,
    parse_text,
)

ADVICE = "; fix the row or pass --on-bad-row skip"


def test_the_accepted_forms():
    assert parse_demonstration({"prompt": "P", "response": "R", "id": 3}, "f:1") == ("P", "R", "f:1")
    assert parse_prompt({"prompt": " P "}, "f:1") == (" P ", "f:1")
    assert parse_text({"text": " T ", "prompt": "not looked at"}, "f:1") == ("", " T ", "f:1")
    assert parse_text({"prompt": "P", "response": "R"}, "f:1") == ("P", "R", "f:1")
    rated = parse_rated({"prompt": "P", "response": "R", "ratings": [1, 2.5]}, "f:1")
    assert rated.ratings.dtype == np.float32
    assert rated.ratings.tolist() == [1, 2.5]
    pair = parse_comparison({"prompt": "P", "chosen": "C", "rejected": "R"}, "f:1")
    assert pair.responses == ("C", "R")
    assert pair.votes.dtype == np.float32
    assert pair.votes.tolist() == [[0, 1], [0, 0]]


USER, SYSTEM, ASSISTANT = ({"role": role, "content": role[0]} for role in ("user", "system", "assistant"))


def test_a_prompt_may_be_the_turns_so_far():
    turns = (Message("system", "s"), Message("user", "u"))
    row = {"prompt": [SYSTEM, {**USER, "name": "Ann"}], "response": "R", "label": False, "chosen": "C", "rejected": "R"}
    assert parse_demonstration(row, "f:1") == Demonstration(turns, "R", "f:1")
    assert parse_prompt(row, "f:1").prompt == turns
    assert parse_comparison(row, "f:1").prompt == turns
    assert parse_labelled(row, "f:1") == LabelledResponse(turns, "R", False, "f:1")
    # Other people's names for the same, and columns in place of rows.
    for chat in ([{"from": "human", "value": "u"}], {"role": ["user"], "content": ["u"]}):
        assert parse_prompt({"prompt": chat}, "f:1").prompt == (Message("user", "u"),)


def test_a_response_may_be_called_a_completion_and_be_a_message():
    want = Demonstration("P", "a", "f:1")
    for row in ({"completion": "a"}, {"completion": "a", "response": None}, {"completion": "a", "response": "a"}):
        assert parse_demonstration({"prompt": "P", **row}, "f:1") == want
    with pytest.raises(DataError, match="field 'completion': expected what 'response' says"):
        parse_demonstration({"prompt": "P", "completion": "b", "response": "a"}, "f:1")
    # A message answers a message.
    row = {"prompt": "P", "completion": [ASSISTANT], "label": True}
    assert parse_demonstration(row, "f:1") == ((Message("user", "P"),), "a", "f:1")
    assert parse_labelled({**row, "prompt": [USER]}, "f:1") == ((Message("user", "u"),), "a", True, "f:1", None)


def test_a_row_is_read_by_the_fields_that_it_holds():
    chat = Dialogue((Message("user", "u"), Message("assistant", "a")), "f:1")
    assert parse_demonstration({"messages": [USER, ASSISTANT], "prompt": "u"}, "f:1") == chat
    assert parse_text({"messages": [USER, ASSISTANT]}, "f:1") == chat
    alpaca = {"instruction": "I", "output": "O"}
    assert parse_demonstration(alpaca, "f:1") == Demonstration("I", "O", "f:1")
    assert parse_demonstration({**alpaca, "input": "x\ny"}, "f:1") == Demonstration("I\n\nx\ny", "O", "f:1")
    assert parse_alpaca({**alpaca, "input": ""}, "f:1") == Demonstration("I", "O", "f:1")
    assert parse_demonstration({**alpaca, "prompt": "P", "response": "R"}, "f:1") == Demonstration("P", "R", "f:1")
    labelled = parse_labelled({"prompt": "P", "completion": "C", "label": np.True_}, "f:1")
    assert labelled == LabelledResponse("P", "C", True, "f:1")
    assert type(labelled.label) is bool


@pytest.mark.parametrize(("preference", "share"), [("a", 1), ("b", 0), ("tie", 0.5), (1, 1), (0, 0), (0.25, 0.25)])
def test_preference_is_the_share_that_prefers_a(preference, share):
    pair = parse_comparison({"prompt": "P", "a": "A", "b": "B", "preference": preference}, "f:1")
    assert pair.responses == ("A", "B")
    assert pair.votes.tolist() == [[0, share], [1 - share, 0]]


def test_ratings_give_the_votes_that_feedback_gives():
    a, b = [1, 2, 2, 4], [2, 2, 0]
    pair = parse_comparison({"prompt": "P", "a": "A", "b": "B", "ratings": {"a": a, "b": b}}, "f:1")
    np.testing.assert_allclose(pair.votes, feedback.votes([a, b]), rtol=1e-6)
    assert pair.votes.sum() == pytest.approx(3)


@pytest.mark.parametrize(
    ("parse", "row", "message"),
    [
        (parse_comparison, {"prompt": "P", "chosen": 3, "rejected": "R"},
         "field 'chosen': expected non-empty text, found 3 (int)"),
        (parse_demonstration, {"prompt": "P"}, "field 'response': expected it to be there, found only 'prompt'"),
        (parse_demonstration, {"prompt": " \n", "response": "R"},
         "field 'prompt': expected non-empty text, found ' \\n' (str)"),
        (parse_prompt, {"prompt": None}, "field 'prompt': expected non-empty text, found None (NoneType)"),
        (parse_prompt, {}, "field 'prompt': expected it to be there, found no fields"),
        (parse_prompt, {"prompt": "x\ud800"},
         "field 'prompt': expected text, found half a character at 1 (an unpaired \\u escape)"),
        (parse_comparison, {"prompt": "P"}, "fields: expected 'chosen' and 'rejected', or 'a' and 'b', found 'prompt'"),
        (parse_comparison, {"prompt": "P", "chosen": "C"},
         "field 'rejected': expected it to be there, found only 'chosen', 'prompt'"),
        (parse_comparison, {"prompt": "P", "chosen": "C", "rejected": "R", "a": "A"},
         "fields 'chosen', 'rejected' and 'a': expected one pair of responses, found both kinds"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B"},
         "field 'preference': expected 'preference' or 'ratings' beside 'a' and 'b', found only 'a', 'b', 'prompt'"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "preference": 10**400},
         "field 'preference': expected 'a', 'b', 'tie' or a number from 0 to 1, found 1" + 56 * "0" + "... (int)"),
        (parse_rated, {"prompt": "P", "response": "R", "ratings": [3, 10**400]},
         "field 'ratings': expected a non-empty list of finite numbers, found [3, 1" + 52 * "0" + "... (list)"),
        (parse_rated, {"prompt": "P", "response": "R", "ratings": [1e300]},
         "field 'ratings': expected a non-empty list of finite numbers, found [1e+300] (list)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "preference": float("nan")},
         "field 'preference': expected 'a', 'b', 'tie' or a number from 0 to 1, found nan (float)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "preference": True},
         "field 'preference': expected 'a', 'b', 'tie' or a number from 0 to 1, found True (bool)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "preference": 1.5},
         "field 'preference': expected 'a', 'b', 'tie' or a number from 0 to 1, found 1.5 (float)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "ratings": {"a": [1]}},
         "field 'ratings': expected an object {\"a\": [numbers], \"b\": [numbers]}, found {'a': [1]} (dict)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "ratings": {"a": [1], "b": []}},
         "field 'ratings.b': expected a non-empty list of finite numbers, found [] (list)"),
        (parse_comparison, {"prompt": "P", "a": "A", "b": "B", "ratings": {"a": [1], "b": [1]}, "preference": 1},
         "fields 'preference' and 'ratings': expected one of them, found both"),
        (parse_text, {"text": ""}, "field 'text': expected non-empty text, found '' (str)"),
        (parse_text, {"text": ["T"]}, "field 'text': expected non-empty text, found ['T'] (list)"),
        (parse_text, {"body": "T"}, "field 'prompt': expected it to be there, found only 'body'"),
        (parse_rated, {"prompt": "P", "response": "R", "ratings": [1, float("inf")]},
         "field 'ratings': expected a non-empty list of finite numbers, found [1, inf] (list)"),
        (parse_rated, {"prompt": "P", "response": "R", "ratings": "345"},
         "field 'ratings': expected a non-empty list of finite numbers, found '345' (str)"),
        (parse_prompt, {"prompt": []},
         "field 'prompt': expected a list of {\"role\": ..., \"content\": ...}, found [] (list)"),
        (parse_prompt, {"prompt": ["u"]},
         "field 'prompt[0]': expected {\"role\": ..., \"content\": ...}, found 'u' (str)"),
        (parse_prompt, {"prompt": [USER, ASSISTANT]},
         "field 'prompt': expected the last turn to be the user's, found user, assistant"),
        (parse_dialogue, {"messages": "u"},
         "field 'messages': expected a list of {\"role\": ..., \"content\": ...}, found 'u' (str)"),
        (parse_dialogue, {"messages": [USER, {**ASSISTANT, "role": "tool"}]},
         "field 'messages[1].role': expected one of 'assistant', 'system', 'user', found 'tool' (str)"),
        (parse_dialogue, {"messages": [USER, {**ASSISTANT, "role": []}]},
         "field 'messages[1].role': expected one of 'assistant', 'system', 'user', found [] (list)"),
        (parse_dialogue, {"messages": [USER, {**ASSISTANT, "content": None}]},
         "field 'messages[1].content': expected non-empty text, found None (NoneType)"),
        (parse_demonstration, {"messages": [SYSTEM, USER]},
         "field 'messages': expected at least one turn of the assistant, found only system, user"),
        (parse_demonstration, {"instruction": "I"},
         "field 'output': expected it to be there, found only 'instruction'"),
        (parse_demonstration, {"output": "O"}, "field 'instruction': expected it to be there, found only 'output'"),
        (parse_alpaca, {"instruction": "I", "input": 3, "output": "O"},
         "field 'input': expected non-empty text, found 3 (int)"),
        (parse_labelled, {"prompt": "P", "response": "R"},
         "field 'label': expected it to be there, found only 'prompt', 'response'"),
        (parse_labelled, {"prompt": "P", "response": "R", "label": 1},
         "field 'label': expected true or false, found 1 (int)"),
        (parse_demonstration, {"prompt": "P", "completion": [USER]},
         f"field 'completion': expected one turn, the assistant's, found {[USER]} (list)"),
        (parse_demonstration, {"prompt": "P", "completion": [ASSISTANT, ASSISTANT]},
         f"field 'completion': expected one turn, the assistant's, found {str([ASSISTANT] * 2)[:57]}... (list)"),
        (parse_labelled, {"prompt": "P", "label": True},
         "field 'response': expected it to be there, found only 'label', 'prompt'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_what_was_found(parse, row, message):
    with pytest.raises(DataError) as caught:
        parse(row, "file.jsonl:12")
    assert str(caught.value) == f"file.jsonl:12: {message}{ADVICE}"
    assert isinstance(caught.value, ValueError)
