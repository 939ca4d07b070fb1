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
        if tag in ("td", "th"):
            self.text += " "

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


def words_of(page: Page) -> str:
    return re.sub(r"\s+", " ", page.text)


def add_policy(run, stage: str, rows: list[dict], figures: dict, config: dict | None = None) -> None:
    """What a further policy stage adds to a folder, in the order in which stages write it."""
    with (run / "metrics.jsonl").open("a") as file:
        for row in rows:
            named = {f"{stage}/{name}": value for name, value in row.items() if name != "step"}
            file.write(json.dumps({"stage": stage, "step": row["step"], **named}) + "\n")
    for name, value in (("summary.json", figures), ("config.json", config or {})):
        path = run / name
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, stage: value}))


def pair_rows(steps: int, *, proxy: bool = True) -> list[dict]:
    """What preference optimisation logs."""
    rows = []
    for i in range(1, steps + 1):
        row = {"step": i, "loss": 0.69 - 0.01 * i, "accuracy": 0.5, "chosen_reward": 0.1, "rejected_reward": -0.1}
        row |= {"reward_margin": 0.2, "chosen_logprob": -50, "rejected_logprob": -60, "skipped": 0, "learning_rate": 1}
        if i % 2 == 0:
            row |= {"heldout_kl": 0.2 * i, "heldout_gold": 0.1 * i, "heldout_loss": 0.6, "heldout_accuracy": 0.55}
            row |= {"heldout_proxy": 0.1 * i} if proxy else {}
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
        summary["baselines"] = {
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
    # by domain, reliability, over-optimisation; the curves of three stages. What never changed is a sentence.
    assert len(drawings) == 3 + 3
    assert "no curve to see: extra 1" in page.text
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
    rows = '{"stage": "dpo", "step": 1, "dpo/loss": 0.69}\n{"stage": "dpo", "step": 2, "dpo/loss": 0.6}\n'
    (run / "metrics.jsonl").write_text(rows)
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


COMPARED = {"gold_win_rate": 0.656, "gold_win_rate_ci": [0.596, 0.712], "kl": 2.71, "kl_ci": [2.38, 3.03]}


def test_preference_optimisation_is_shown_like_any_policy(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    changes = {"gold_before": 0.15, "gold_after": 0.39, "distinct_2_before": 0.902, "distinct_2": 0.883}
    implicit = {"objective": "dpo", "accuracy": 0.59, "accuracy_ci": [0.568, 0.612], "pairs": 9347}
    add_policy(run, "preference", pair_rows(6), {**COMPARED, **changes, **implicit})
    (run / "samples.jsonl").write_text('{"prompt": "p", "before": "b", "after": "a"}\n')
    html, page = read(run)
    for words in (
        "Preference optimisation: dpo (complete, 6 steps)",
        "the gold judge prefers the dpo policy to the SFT policy 65.6% of the time",
        "65.6% (59.6 to 71.2)",
        "2.71 (2.38 to 3.03)",
        "0.15 → 0.39",
        "0.902 → 0.883",
        "59.0% (56.8 to 61.2)",
        "None. Watched: a KL above the limit; a proxy that rises while the gold score does not; skipped updates.",
        "here the reward model only measures",
        "Samples, before and after dpo",
        "after (dpo)",
    ):
        assert words in words_of(page), words
    assert "PPO" not in page.text
    assert 'id="preference"' in html


def test_without_a_reward_model_gold_is_drawn_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    add_policy(run, "preference", pair_rows(6, proxy=False), {"objective": "dpo"})
    _, page = read(run)
    assert "Does going further from the starting policy still pay?" in page.text
    assert "proxy" not in page.text


def test_a_group_method_raises_alarms_from_its_own_log(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"step": i, "kl": 12.0 * i, "proxy_mean": 0.1, "logprob_gap": 0.0} for i in range(1, 4)]
    add_policy(run, "group", rows, {}, {"objective": "grpo"})
    (run / "summary.json").unlink()
    _, page = read(run)
    assert "Group policy gradient: grpo (at step 3, not complete)" in words_of(page)
    assert "24.0 nats a response" in page.text


def test_a_folder_with_several_policies_shows_them_all(tmp_path):
    run = write_run(tmp_path / "run")
    rows = [{name.removeprefix("ppo/"): value for name, value in row.items() if name != "stage"} for row in ppo_rows(9)]
    add_policy(run, "group", rows, {**COMPARED, "objective": "rlhf_jax.objectives.rloo.rloo(kl_coef=0.05)"})
    add_policy(run, "preference", pair_rows(4), {"objective": "mine.py:hinge", "kl": 30.0, "mine_win_rate": 0.5})
    html, page = read(run)
    for stage in ("sft", "reward", "ppo", "group", "preference"):
        assert f'<section id="{stage}">' in html
    for words in (
        "PPO against the reward model (complete, 20 steps); Group policy gradient: rloo (complete, 9 steps); "
        "Preference optimisation: hinge (complete, 4 steps).",
        "On held-out prompts PPO rloo hinge",
        "by the gold judge 61.0% (55.0 to 67.0) 65.6% (59.6 to 71.2)",
        "by the judge mine 50.0%",
        "nats a response 7.50 2.71 (2.38 to 3.03) 30.00",
        "The hinge policy is 30.0 nats",
        "Samples, before and after hinge",
        "it finished last",
    ):
        assert words in words_of(page), words
    assert page.text.count("Alarms") == 3


def test_the_objective_of_a_critics_policy_is_named_unless_it_is_ppo(tmp_path):
    for objective, title in (
        ("ppo", "PPO against the reward model ("),
        ("a2c", "Policy gradient with a critic: a2c ("),
    ):
        run = tmp_path / objective
        run.mkdir()
        add_policy(run, "ppo", [{"step": 1, "kl": 0.1}], {"objective": objective})
        assert title in words_of(read(run)[1])


def test_an_ensemble_shows_its_members_and_how_far_they_are_apart(tmp_path):
    run = write_run(tmp_path / "run")
    assert "The members of the ensemble" not in read(run)[1].text
    summary = json.loads((run / "summary.json").read_text())
    summary["reward"] |= {"member_accuracy": [0.701, 0.698, 0.705], "disagreement": 0.234, "reward_std": 0.88}
    (run / "summary.json").write_text(json.dumps(summary))
    words = words_of(read(run)[1])
    assert "Each alone ranks 70.1%, 69.8% and 70.5% of the held-out pairs" in words
    assert "the mean of their scores ranks 71.2%" in words
    assert "differ by 0.23 (standard deviation), scores of different responses by 0.88" in words


def test_best_of_n_is_a_policy_without_steps(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    add_policy(run, "best_of_n", [], {"n": 16, "kl": 1.84, "kl_ci": [1.84, 1.84], "gold_win_rate": 0.7})
    words = words_of(read(run)[1])
    assert "Best of n, without training (complete)." in words
    assert "nats a response 1.84 " in words
    assert "Alarms" not in words


def test_data_without_domains_has_no_table_of_them(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    reward = {"accuracy": 0.9, "accuracy_by_domain": {"all": 0.9}, "pairs_by_domain": {"all": 12}, "pairs": 12}
    (run / "summary.json").write_text(json.dumps({"reward": reward}))
    _, page = read(run)
    assert "Ranking held-out pairs" not in page.text
    assert "accuracy, all held-out pairs 90.0%" in words_of(page)


def evaluations(stage: str, steps) -> list[dict]:
    place = {"stage": stage, "prompt": "The <film> starts"}
    return [{**place, "step": i, "response": f"said at {i}", "proxy": 0.1 * i, "kl": 0.5 * i} for i in steps]


def test_samples_show_how_they_change_over_the_steps_of_each_stage(tmp_path):
    run = write_run(tmp_path / "run")
    before = words_of(read(run)[1])
    with (run / "samples.jsonl").open("a") as file:
        for row in [*evaluations("ppo", range(0, 20, 10)), *evaluations("sft", [7])]:
            file.write(json.dumps(row) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    summary["ppo"] |= {"best_step": 10, "stopped_early": True, "stop_reason": "the KL is <high>"}
    (run / "summary.json").write_text(json.dumps(summary))
    html, page = read(run)
    words = words_of(page)
    assert "Stopped early, at step 20: the KL is <high>." in words
    assert "The <film> starts step response proxy KL, nats 0 said at 0 0.00 0.00 10 ★ said at 10 1.00 5.00" in words
    assert words.index("said at 10") < words.index("Samples, before and after PPO")
    assert "left out" not in words
    assert "said at" not in before
    # The comparison has no rows of evaluations.
    final = html[html.index('id="samples"') : html.index('id="about"')]
    assert "The &lt;film&gt;" not in final


def test_while_a_policy_trains_its_samples_are_shown_already(tmp_path):
    run = write_run(tmp_path / "run", done=("sft", "reward"))
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations("ppo", range(40))))
    html, page = read(run)
    words = words_of(page)
    assert "said at 0 " in words
    assert "said at 39 " in words
    assert 8 <= words.count("said at") <= 11
    assert "Some evaluations are left out here" in words
    assert 'id="samples"' not in html
