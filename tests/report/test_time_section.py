"""The part of the report about time: there where a run has a log of it, and only there."""

import base64
import json
import re

import pytest
from test_page import read, words_of, write_run

from rlhf_jax.report import ReportError, read_run, write_report
from rlhf_jax.report.goodput import time_section
from rlhf_jax.training import Spent
from rlhf_jax.training.goodput import KINDS


def kinds(**seconds):
    return {**dict.fromkeys(KINDS, 0.0), **seconds}


def add_goodput(run, *lines, torn=""):
    rows = [
        {"stage": stage, "process": start, "start": start, "step": 1, "seconds": kinds(**seconds)}
        for stage, start, seconds in lines
    ]
    (run / "goodput.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return run


SFT = ("sft", 0, {"useful": 300.0, "compile": 60.0, "save": 40.0})
PPO = [("ppo", 500, {"useful": 3600.0, "idle": 10.0}), ("ppo", 4200, {"useful": 100.0, "restart": 35.0})]


def test_the_page_says_where_the_time_of_every_stage_went(tmp_path):
    run = add_goodput(write_run(tmp_path / "run"), SFT, *PPO, torn='{"stage": "ppo", "st')
    _, page = read(run)
    words = words_of(page)
    assert "Where the time went" in words
    # 300 of 400 seconds; 3700 of 3835, of which 90 lie between the two processes.
    assert "goodput 75.0% 96.5%" in words
    assert "attempts 1 2" in words
    assert "wall time 6:40 1:03:55" in words
    assert "training steps 5:00 1:01:40" in words
    assert "restarts and lost work 0:00 0:35" in words
    assert "idle 0:00 1:40" in words
    assert "evaluation 0:00" not in words  # nothing took any


def test_a_folder_of_an_earlier_version_has_a_page_without_it(tmp_path):
    run = write_run(tmp_path / "run")
    assert read_run(run).goodput == {}
    assert "Where the time went" not in read(run)[0]
    assert "Where the time went" not in read(add_goodput(run, torn='{"sta'))[0]


def test_a_damaged_log_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "goodput.jsonl").write_text("nonsense\n")
    with pytest.raises(ReportError, match=r"goodput.jsonl:1: not a line of a goodput log"):
        write_report(run)


def test_the_drawing_has_a_bar_a_stage_and_a_name_a_kind():
    found = time_section(
        {"sft": Spent(kinds(useful=3.0, compile=1.0), 1, 9), "group": Spent(kinds(useful=1.0, idle=1.0), 2, 9)},
        {"group": "rloo"},
    )
    assert found is not None
    assert found.stages == ("Supervised fine-tuning", "Group policy gradient: rloo")
    drawing = base64.b64decode(found.drawing.split(",", 1)[1]).decode()
    texts = re.findall("<text[^>]*>(.*?)</text>", drawing)
    assert {*found.stages, "training steps", "compilation", "idle"} <= set(texts)
    assert "saving" not in texts  # nothing took any


def test_where_no_time_has_passed_there_is_nothing_to_show():
    assert time_section({"sft": Spent(kinds(), 1, 0)}, {}) is None
