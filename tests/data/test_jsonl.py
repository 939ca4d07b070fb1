import json

import numpy as np
import pytest

from rlhf_jax.data import DataError, parse_comparison, parse_prompt, read_jsonl, write_jsonl

GOOD = b'{"prompt": "P", "chosen": "C", "rejected": "R"}\n'


def test_rows_know_where_they_stand(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD.replace(b"\n", b"\r\n") + GOOD.rstrip())
    rows, bad = read_jsonl(path, parse_comparison)
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3", f"{path}:4"]
    assert bad == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "P", "chosen": 3, "rejected": "R"}', "field 'chosen': expected non-empty text, found 3 (int)"),
        (b'{"prompt": "P", ', 'expected a JSON object, found {"prompt": "P", (Expecting property name'),
        (b'["P"]', 'expected a JSON object, found ["P"] (list)'),
        (b'{"prompt": "caf\xe9"}', "expected UTF-8, found byte 0xe9 at 15"),
        (b"[" * 200_000, "expected a JSON object, found [[["),
    ],
)
def test_a_bad_row_is_an_error_or_is_skipped_and_listed(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(DataError) as caught:
        read_jsonl(path, parse_comparison)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "--on-bad-row skip" in str(caught.value)
    rows, bad = read_jsonl(path, parse_comparison, on_bad_row="skip")
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    assert bad == [str(caught.value)]


def test_line_separators_inside_a_text_do_not_end_the_row(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "one\u2028two\x85three\nfour"}, {"prompt": "next"}]
    write_jsonl(path, rows)
    assert [row.prompt for row in read_jsonl(path, parse_prompt)[0]] == [row["prompt"] for row in rows]


def test_numpy_is_written_as_numbers_and_lists(tmp_path):
    path = tmp_path / "scores.jsonl"
    write_jsonl(path, [{"score": np.float32(0.5), "n": np.int64(3), "ratings": np.array([1, 2])}])
    assert json.loads(path.read_text()) == {"score": 0.5, "n": 3, "ratings": [1, 2]}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_nothing_is_half_written(tmp_path, value):
    path = tmp_path / "out.jsonl"
    write_jsonl(path, [{"old": 1}])
    with pytest.raises((ValueError, TypeError)):
        write_jsonl(path, [{"new": 1}, {"new": value}])
    assert path.read_text() == '{"old": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_unknown_way_with_bad_rows_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match="on_bad_row='ignore'"):
        read_jsonl(path, parse_comparison, on_bad_row="ignore")
