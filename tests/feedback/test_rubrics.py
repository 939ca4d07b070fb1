"""Rubrics: what a file may hold, and what is said of one that holds something else."""

import json

import pytest

from rlhf_jax.feedback.rubrics import Criterion, RubricError, read_rubric, rubric_of

TONE = {
    "name": "tone", "text": "It is\n positive.", "weight": 2,
    "completion": "Text: {response}\nSentiment:", "answers": ["negative", "positive"],
}  # fmt: skip


def test_toml_and_json_say_the_same(tmp_path):
    toml, as_json = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text(
        '# tone\n[[criteria]]\nname = "tone"\ntext = """It is\n positive."""\nweight = 2\n'
        'completion = """Text: {response}\nSentiment:"""\nanswers = ["negative", "positive"]\n'
        '[[criteria]]\ntext = "It is short."\n'
    )
    as_json.write_text(json.dumps({"criteria": [TONE, {"text": "It is short."}]}))
    found = read_rubric(toml)
    assert found == read_rubric(as_json)
    assert found.criteria == (
        Criterion("It is positive.", 2.0, "tone", "", TONE["completion"], ("negative", "positive")),
        Criterion("It is short.", 1.0, "criterion 2"),
    )
    # Comments are no part of the version, a weight is.
    toml.write_text(toml.read_text().replace("# tone", "# the tone"))
    assert read_rubric(toml).digest == found.digest
    toml.write_text(toml.read_text().replace("weight = 2", "weight = 3"))
    assert read_rubric(toml).digest != found.digest


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([], r"expected criteria with text and weight"),
        ({"criteria": []}, r"expected criteria"),
        ({"criteria": ["kind"]}, r"criterion 1 is 'kind'"),
        ({"criteria": [{"text": "It is kind."}], "weights": [1]}, r"unknown field 'weights'"),
        (
            {"criteria": [{"text": "It is kind.", "wieght": 1}]},
            r"criterion 1: unknown field 'wieght': it may have text",
        ),
        ({"criteria": [{"weight": 1}]}, r"criterion 1: text must be a sentence .* found None"),
        ({"criteria": [{"text": " "}]}, r"text must be a sentence"),
        ({"criteria": [{"text": "a", "weight": 0}]}, r"weight must be a number above 0, found 0"),
        ({"criteria": [{"text": "a", "weight": float("nan")}]}, r"weight must be a number above 0, found nan"),
        ({"criteria": [{"text": "a", "weight": True}]}, r"weight must be a number"),
        ({"criteria": [{"text": "a", "weight": "2"}]}, r"weight must be a number above 0, found '2'"),
        ({"criteria": [{"text": "a", "name": 3}]}, r"name must be a text, found 3"),
        ({"criteria": [{"text": "a", "name": "x"}, {"text": "b", "name": "x"}]}, r"a second criterion is called 'x'"),
        ({"criteria": [{**TONE, "completion": "Text: {respons}"}]}, r"completion must show \{response\} alone"),
        ({"criteria": [{**TONE, "completion": "{response} or {first}"}]}, r"must show \{response\} alone"),
        (
            {"criteria": [{**TONE, "question": "{response}?"}]},
            r"has a question and a completion: leave one of them out",
        ),
        ({"criteria": [{**TONE, "question": 3}]}, r"question must be a text, found 3"),
        ({"criteria": [{**TONE, "answers": ["yes"]}]}, r"answers must be a list of at least two different texts"),
        ({"criteria": [{**TONE, "answers": ["yes", "yes"]}]}, r"at least two different texts"),
        ({"criteria": [{**TONE, "answers": "yes"}]}, r"answers must be a list"),
        ({"criteria": [{"text": "a", "answers": ["no", "yes"]}]}, r"has answers and no question"),
        (
            {"criteria": [{"text": "a", "question": "{first}? {second}?", "answers": ["a", "b", "c"]}]},
            r"one of a pair is one of two answers",
        ),
        (
            {"criteria": [{"text": "a", "question": "{responses}", "answers": ["a", "b"]}]},
            r"an order is answered with letters",
        ),
    ],
)
def test_what_is_wrong_is_said_by_file_and_field(fields, said):
    with pytest.raises(RubricError, match=rf"^mine\.toml.*{said}"):
        rubric_of(fields, called="mine.toml")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", b"[[criteria", "is no TOML"),
        ("a.json", b"{", "is no JSON"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.md", b"kind", r"a rubric is a \.toml or a \.json file"),
        ("a.toml", b"\xff\xfe", "UTF-8"),
        ("a.json", b" " * (2**20 + 1), r"1,048,577 bytes are no rubric"),
        ("a.toml", None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_rubric(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RubricError, match=rf"{name}: .*{said}"):
        read_rubric(tmp_path / name)
