"""Reading run folders that are finished, half written, and damaged."""

from __future__ import annotations

import json

import pytest

from rlhf_jax.report import ReportError, read_run
from rlhf_jax.report.run_folder import series


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_rows_by_stage_in_order(tmp_path):
    rows = [{"stage": "sft", "step": 2}, {"stage": "ppo", "step": 1}, {"stage": "sft", "step": 1, "sft/loss": 2}]
    write_rows(tmp_path / "metrics.jsonl", rows)
    run = read_run(tmp_path)
    assert [row["step"] for row in run.metrics["sft"]] == [1, 2]
    assert series(run.metrics["sft"], "sft/loss") == [(1, 2.0)]
    assert run.summary == run.config == {}
    assert run.samples == []


def test_a_last_line_still_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 1}\n{"stage": "sft", "step": 2}')
    assert len(read_run(tmp_path).metrics["sft"]) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"stage": "sft", "step": 1}\nnonsense\n{}\n', r"metrics\.jsonl:2: not JSON"),
        ("metrics.jsonl", '{"step": 1}\n', r"metrics\.jsonl:1: expected the fields 'stage' and 'step'"),
        ("samples.jsonl", "[1]\n", r"samples\.jsonl:1: expected a JSON object, found list"),
        ("summary.json", "{", r"summary\.json: not JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReportError, match=message):
        read_run(tmp_path)


def test_no_run_there(tmp_path):
    with pytest.raises(ReportError, match=r"holds none of config\.json"):
        read_run(tmp_path)
    with pytest.raises(ReportError, match="is not a folder"):
        read_run(tmp_path / "nowhere")


def test_baselines_of_a_folder_of_version_0_1_are_found(tmp_path):
    (tmp_path / "summary.json").write_text('{"yardsticks": {"ridge": 0.75}}')
    assert read_run(tmp_path).summary == {"baselines": {"ridge": 0.75}}
