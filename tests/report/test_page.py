"""The page as a whole: self-contained, well-formed, escaped, and there for partial runs too."""

from __future__ import annotations

import base64
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from rlhf_jax.report import write_report

VOID = {"meta", "img", "col", "br"}


class Page(HTMLParser):
    """Collects text and attributes, and checks that every element is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def ppo_rows(steps: int) -> list[dict]:
    rows = []
    for i in range(1, steps + 1):
        row = {"stage": "ppo", "step": i, "ppo/kl": 0.1 * i, "ppo/proxy_mean": 0.05 * i, "ppo/skipped": 0}
        if i % 5 == 0:
            row |= {"ppo/heldout_kl": 0.1 * i, "ppo/heldout_proxy": 0.05 * i, "ppo/heldout_gold": 0.02 * i}
        rows.append(row)
    return rows


def write_run(folder, *, stages=("sft", "reward", "ppo"), done=("sft", "reward", "ppo")):
    rows: list[dict] = []
    if "sft" in stages:
        rows += [{"stage": "sft", "step": i, "sft/loss": 4 + math.exp(-i), "sft/extra": 1.0} for i in range(1, 100)]
        rows[-1]["sft/heldout_loss"] = 4.1
    if "reward" in stages:
        rows += [{"stage": "reward", "step": i, "reward/loss": 0.7 - 0.001 * i} for i in range(1, 20)]
    if "ppo" in stages:
        rows += ppo_rows(20)
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {
        "sft": {"heldout_loss": 4.123456},
        "reward": {
            "accuracy": 0.712,
            "accuracy_ci": [0.70, 0.725],
            "pairs": 2468,
            "accuracy_by_domain": {"movie": 0.71, "nyt": 0.71},
            "accuracy_by_domain_ci": {"movie": [0.68, 0.74], "nyt": [0.68, 0.74]},
            "pairs_by_domain": {"movie": 1234, "nyt": 1234},
            "ece": 0.021,
            "reliability": [{"low": 0.5, "high": 0.55, "confidence": 0.52, "observed": 0.53, "pairs": 100}],
            "warnings": ["Rewards <are> saturated."],
        },
        "ppo": {"gold_win_rate": 0.61, "gold_win_rate_ci": [0.55, 0.67], "kl": 7.5, "alarms": []},
    }
    summary = {"seed": 3, "versions": {"jax": "0.10.2"}, "seconds": {"total": 700.0}, "config_note": None}
    summary |= {stage: results[stage] for stage in done}
    if "reward" in done:
        summary["yardsticks"] = {
            "ridge": 0.738,
            "vader": 0.69,
            "single_rater": 0.82,
            "ridge_by_domain": {"movie": 0.75},
        }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"seed": 3, "sft": {"model": {"dim": 128}, "learning_rate": 1e-3}}))
    if "ppo" in done:
        attack = '</td><script>alert("x")</script> & "quotes"'
        samples = [
            {
                "prompt": attack,
                "domain": "mo<vie",
                "before": "a\nb",
                "after": attack,
                "proxy_before": 0.1,
                "gold_after": 2,
            },
            {"prompt": "half a pair \ud83d", "domain": "nyt", "before": "", "after": "\x00"},
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


def read(folder) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def test_a_full_run(tmp_path):
    html, page = read(write_run(tmp_path / "run"))
    for words in (
        "the bar of 70% is met",
        "2.6 points below the aim, ridge",
        "71.2%",
        "70.0 to 72.5",
        "4.123",
        "61.0%",
        "75.0%",
        "2,468",
        "model.dim",
        "0.10.2",
        "Rewards <are> saturated.",
        "Expected calibration error 0.021",
        "None. Watched:",
    ):
        assert words in re.sub(r"\s+", " ", page.text), words
    assert "seed 3" in html


def test_self_contained_and_without_script(tmp_path):
    html, page = read(write_run(tmp_path / "run"))
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in html
    drawings = [base64.b64decode(address.split(",", 1)[1]) for address in page.addresses if "base64" in address]
    # by domain, reliability, over-optimisation; the curves of three stages, and what else two of them logged
    assert len(drawings) == 3 + 3 + 2
    for drawing in drawings:
        assert ET.fromstring(drawing).tag.endswith("svg")


def test_text_of_others_is_escaped(tmp_path):
    html, page = read(write_run(tmp_path / "run"))
    assert '</td><script>alert("x")</script> & "quotes"' in page.text
    assert "<script" not in html
    assert "<are>" not in html


def test_the_same_run_gives_the_same_page(tmp_path):
    run = write_run(tmp_path / "run")
    assert read(run)[0] == read(run)[0]


def test_nothing_but_the_page_is_left_behind(tmp_path):
    run = write_run(tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    write_report(run)
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_only_sft(tmp_path):
    _, page = read(write_run(tmp_path / "run", stages=("sft",), done=("sft",)))
    assert "4.123" in page.text
    assert "Reward model" not in page.text
    assert "Alarms" not in page.text


def test_while_ppo_is_going_alarms_come_from_the_log(tmp_path):
    run = write_run(tmp_path / "run", done=("sft", "reward"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "ppo", "step": 21, "ppo/kl": 33.0, "ppo/loss": float("nan")}) + "\n")
        row = {
            "stage": "ppo",
            "step": 21,
            "ppo/heldout_kl": 3.0,
            "ppo/heldout_proxy": None,
            "ppo/heldout_gold": math.nan,
        }
        file.write(json.dumps(row) + "\n{")
    _, page = read(run)
    assert "at step 21, not complete" in page.text
    assert "33.0 nats a response" in page.text


def test_before_the_first_step(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"sft": {"steps": 10}}')
    _, page = read(run)
    assert "No stage has logged a step yet." in page.text


def test_a_stage_the_report_does_not_know(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"stage": "dpo", "step": 1, "dpo/loss": 0.69}\n')
    (run / "summary.json").write_text('{"dpo": {"accuracy": 0.6}}')
    _, page = read(run)
    assert "dpo" in page.text
    assert len([address for address in page.addresses if address.startswith("data:")]) == 1


def test_alarms_of_the_summary_are_shown(tmp_path):
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary["ppo"]["alarms"] = [{"name": "reward_hacking", "step": 40, "message": "The proxy rose."}]
    (run / "summary.json").write_text(json.dumps(summary))
    _, page = read(run)
    assert "step 40" in page.text
    assert "The proxy rose." in page.text


@pytest.mark.parametrize("rows", [1, 5000])
def test_short_and_long_logs(tmp_path, rows):
    run = tmp_path / "run"
    run.mkdir()
    log = [{"stage": "sft", "step": i, "sft/loss": 2 + math.sin(i)} for i in range(rows)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    assert len(read(run)[0]) < 150_000
