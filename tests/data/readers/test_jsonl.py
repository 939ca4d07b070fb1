import gzip
import json

import numpy as np
import pytest

from rlhf_jax.data import DataError, layouts, parse_comparison, parse_prompt, read_jsonl, write_jsonl
from rlhf_jax.data.readers import jsonl

GOOD = b'{"prompt": "P", "chosen": "C", "rejected": "R"}\n'
SKIP = "fix the row or pass --on-bad-row skip"


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


@pytest.mark.parametrize("name", ["rows.json", "lines.json", "rows.jsonl.gz"])
def test_one_bad_value_spoils_no_other_row(tmp_path, name):
    """Neither a number in a column of texts nor a text that looks like a date changes what the others say."""
    given = [{"prompt": text} for text in ("2024-01-02 00:00:00", "plain", 7, "last")]
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in given).encode()
    path.write_bytes(
        {"rows.json": json.dumps(given, indent=1).encode(), "lines.json": lines}.get(name, gzip.compress(lines))
    )
    rows, bad = read_jsonl(path, parse_prompt, on_bad_row="skip")
    assert [row.prompt for row in rows] == ["2024-01-02 00:00:00", "plain", "last"]
    where = f"{path} row 2" if name == "rows.json" else f"{path}:3"
    assert bad == [f"{where}: field 'prompt': expected non-empty text, found 7 (int); {SKIP}"]
    assert rows[2].where == (f"{path} row 3" if name == "rows.json" else f"{path}:4")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", b'\xef\xbb\xbf ["P"]', f" row 0: expected a JSON object, found 'P' (str); {SKIP}"),
        ("rows.json", b'[{"prompt": "caf\xe9"}]', ": expected UTF-8, found byte 0xe9 at 16; save the file as UTF-8"),
        (
            "rows.json",
            b'[{"prompt": "P"}',
            ": cannot be read: expected a list of JSON objects (Expecting ',' delimiter",
        ),
        ("rows.json", b'{"data": 1}', ":1: no layout"),
        ("rows.jsonl.gz", b"text", ": cannot be read: Not a gzipped file"),
        ("rows.jsonl.gz", gzip.compress(GOOD, mtime=0)[:-9], ": cannot be read: Compressed file ended before"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_jsonl(tmp_path / name, layouts.prompt)
    assert str(caught.value).startswith(f"{tmp_path / name}{message}")


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


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch):
    """A small archive may unpack to one line that no memory holds."""
    monkeypatch.setattr(jsonl, "_LONGEST", 1000)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD + b" " * 990 + b"\n" + b'{"prompt": "' + b"x" * 10_000))
    with pytest.raises(DataError, match=r"rows.jsonl.gz:3: more than 1,000 bytes without a line's end"):
        read_jsonl(path, parse_prompt, on_bad_row="skip")
