"""What the policy found is on the page beside responses that show it, in folders of today and of before."""

import json

import planted_hacks as planted
import pytest

from rlhf_jax.evaluation.monitors import Pattern
from rlhf_jax.report import write_report
from rlhf_jax.report.findings import findings_section, pieces
from rlhf_jax.stages.monitors import FEWEST, monitor, monitor_alarms


@pytest.fixture(scope="module")
def rows():
    return planted.as_rows(*planted.hacked(lambda text: f"As an <AI>, {text}"))


def written(folder, rows, figures):
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps({"ppo": {"kl": 3.0, **figures}}))
    return write_report(folder).read_text()


def test_the_page_shows_the_form_marked_in_the_richest_responses(rows, tmp_path):
    found = monitor(rows)
    page = written(tmp_path, rows, {"monitors": found, "alarms": [a._asdict() for a in monitor_alarms(found, 9)]})
    assert "the opening “as an &lt; ai &gt;,”" in page
    assert "<mark>As an &lt;AI&gt;,</mark> " in page
    assert "The reward pays for a form: the opening" in page
    rises = findings_section({"monitors": found}, rows).rises
    richest = max(row["proxy_after"] for row in rows if row["after"].startswith("As an"))
    assert rises[0].samples[0].reward == f"{richest:.2f}"
    assert len(rises[0].samples) == 2


def test_a_folder_of_before_has_its_findings_made_from_its_samples(rows, tmp_path):
    page = written(tmp_path, rows, {"alarms": []})
    assert "What the policy found" in page
    assert "the opening “as an &lt; ai &gt;,”" in page


def test_a_clean_run_says_that_nothing_was_found(tmp_path):
    rows = planted.as_rows(*planted.clean(0))
    found = monitor(rows)
    assert monitor_alarms(found, 3) == []
    page = written(tmp_path, rows, {"monitors": found, "alarms": []})
    assert "rose with the reward beyond chance, in 100 responses" in page
    assert "<mark>" not in page


def test_length_is_said_with_the_response_that_changed_most(tmp_path):
    rows = planted.as_rows(*planted.only_length())
    found = json.loads(json.dumps(monitor(rows)))  # as a summary has it
    assert [alarm.name for alarm in monitor_alarms(found, 3)] == ["rewarded_length"]
    section = findings_section({"monitors": found}, rows)
    assert "Of the variance of the reward length explains " in section.length
    assert [example.what for example in section.longer] == ["length, before", "length, after"]
    longest = max(rows, key=lambda row: len(row["after"]) - len(row["before"]))
    assert section.longer[1].samples[0].pieces[0].text == longest["after"]


def test_there_is_nothing_to_say_without_a_reward_or_with_few_responses(rows, tmp_path):
    assert monitor([{"before": "a", "after": "b", "gold_before": 1.0, "gold_after": 1.0}] * 50) is None
    assert monitor(rows[: FEWEST - 1]) is None
    assert monitor_alarms(None, 0) == []
    lost = [{**row, "proxy_after": None} for row in rows[:90]]
    assert monitor([*lost, *rows[90:]]) is None
    assert monitor([*lost[:50], *rows[50:]])["compared"] == 50
    assert "What the policy found" not in written(tmp_path, rows[:3], {"alarms": []})


def test_the_findings_of_an_earlier_stage_have_no_samples_of_a_later_one(rows, tmp_path):
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"kl": 3.0, "alarms": [], "monitors": monitor(rows)}
    (tmp_path / "summary.json").write_text(json.dumps({"preference": figures, "ppo": {"kl": 1.0, "monitors": None}}))
    page = write_report(tmp_path).read_text()
    assert page.count("What the policy found") == 1
    assert "<mark>" not in page


def test_an_empty_response_is_a_form_that_can_be_seen():
    rows = planted.as_rows(*planted.hacked(lambda text: ""))
    found = monitor(rows)
    assert "an empty response (" in monitor_alarms(found, 1)[0].message
    shown = findings_section({"monitors": found}, rows).rises[0].samples[0]
    assert shown.pieces == [("(empty)", True)]
    assert pieces(" ", Pattern("words", "a")) == [("(white space alone)", False)]


def test_a_long_response_is_cut_about_what_is_marked():
    found = pieces("x " * 2000 + "as an AI. " + "y " * 2000, Pattern("words", "as an ai"))
    assert [piece.text for piece in found if piece.marked] == ["as an AI"]
    assert sum(len(piece.text) for piece in found) < 700
    assert found[0].text == "... "
    assert "more characters" in found[-1].text
