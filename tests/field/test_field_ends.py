"""How a run ends, as a table: what happened, and what console, summary and page have to say about it."""

from __future__ import annotations

import json
import re
import types

import jax.numpy as jnp
import pytest
import tiny_task

from rlhf_jax import evaluation, losses
from rlhf_jax.cli import pipeline
from rlhf_jax.report import write_report
from rlhf_jax.report.panels import moving, stage_panels
from rlhf_jax.report.plots import Line, Panel
from rlhf_jax.stages import ending, sft
from rlhf_jax.stages.online.loop import reached
from rlhf_jax.stages.verdicts import alarm_verdicts, rows_sentence, stage_verdicts
from rlhf_jax.types import Loss

ONLINE = {"updates": 48, "skipped_updates": 0, "steps": 12, "started_from": "sft", "max_kl": 20.0, "test_prompts": 8}
WON = {"gold_win_rate": 0.9, "gold_win_rate_ci": [0.7, 0.97], "short_win_rate": 0.2, "short_win_rate_ci": [0.1, 0.4]}
WON |= {"proxy_win_rate": 0.8, "proxy_win_rate_ci": [0.6, 0.9], "kl": 3.0, "reward": "mine.py:length"}
EVEN = {name: 0.5 if name.endswith("rate") else [0.2, 0.8] for name in WON if "win" in name} | {"kl": 0.0}

# stage, its part of the summary; the kinds of its sentences, and what these say
TABLE = {
    "step 0 was kept": (
        "ppo",
        {**ONLINE, **EVEN, "best_step": 0, "kept": "No checkpoint beat the SFT policy, so step 0 was kept."},
        {"missed", "note"},
        (
            "no checkpoint beat the SFT policy",
            "nothing to judge: the gold judge, the judge short, the reward, KL",
        ),
    ),
    "a step was kept": (
        "ppo",
        {**ONLINE, **WON, "best_step": 8, "kept": "Step 8 of 12 was kept: it has the highest proxy reward."},
        {"note", "met", "missed"},
        (
            "step 8 of 12 was kept",
            "On 8 held-out prompts the gold judge prefers the PPO policy",
            "the judge short prefers the PPO policy to the SFT policy 20.0% of the time",
            "the reward (mine.py:length) prefers the PPO policy",
            "within max_kl, 20",
        ),
    ),
    "the KL went past the limit that was asked for": (
        "group",
        {**ONLINE, "best_step": 8, "kl": 3.0, "max_kl": 2.5, "objective": "rloo"},
        {"missed"},
        ("the limit is max_kl, 2.5",),
    ),
    "all updates were skipped": (
        "ppo",
        {**ONLINE, **EVEN, "skipped_updates": 48, "best_step": 0, "failed": "all 48 updates were skipped"},
        {"failed"},
        ("all 48 updates were skipped", "no result"),
    ),
    "some updates were skipped": (
        "sft",
        {"updates": 400, "skipped_updates": 12, "best_step": 400, "kept": "Step 400, the last one, was kept."},
        {"note", "warning"},
        ("12 of 400 updates were skipped", "step 400, the last one, was kept"),
    ),
    "rows were left out": (
        "sft",
        {"rows": {"trained": 1200, "held_out": 60, "test": 60, "left_out": 3}},
        {"note"},
        ("1,200 rows were trained on", "60 held out", "3 were left out"),
    ),
    "it stopped early": (
        "reward",
        {"stop_reason": "5 evaluations passed without a better heldout_loss", "steps": 30},
        {"note"},
        ("stopped early, at step 30: 5 evaluations",),
    ),
    "a reward model no better than chance": (
        "reward",
        {"accuracy": 0.6, "accuracy_ci": [0.4, 0.8], "pairs": 24},
        {"note"},
        ("60.0% of 24 held-out pairs", "not shown to be better than chance"),
    ),
    "a reward model measured on few pairs": (
        "reward",
        {"accuracy": 1.0, "accuracy_ci": [1.0, 1.0], "pairs": 12},
        {"note"},
        ("100.0% of 12 held-out pairs", "20 pairs are the least that say something"),
    ),
    "a reward model measured on ties alone": (
        "reward",
        {"accuracy": None, "pairs": 0},
        {"warning"},
        ("No held-out pair has a majority",),
    ),
    "best of n has no limit to keep": ("best_of_n", {"n": 4, "kl": 0.64}, {"note"}, ("is 0.6 nats",)),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_is_said_at_the_end(case):
    stage, figures, kinds, words = TABLE[case]
    found = stage_verdicts(stage, {stage: figures})
    said = " | ".join(text for _, text in found)
    assert {kind for kind, _ in found} == kinds, said
    for word in words:
        assert word in said, said


def test_nothing_is_met_that_was_not_tried():
    for case in ("step 0 was kept", "all updates were skipped"):
        stage, figures, _, _ = TABLE[case]
        assert "met" not in {kind for kind, _ in stage_verdicts(stage, {stage: figures})}


def test_a_stage_that_gave_up_is_said_until_it_is_complete():
    summary = {"failed": {"sft": "sft: the last 20 updates up to step 20 were skipped"}}
    ((kind, text),) = stage_verdicts("sft", summary)
    assert (kind, "the last 20 updates" in text) == ("failed", True)
    assert stage_verdicts("sft", {**summary, "sft": {}}) == []


def test_alarms_stand_at_the_end_with_stage_and_step():
    summary = {"ppo": {"alarms": [{"name": "high_kl", "step": 7, "message": "The KL reached 31."}]}}
    assert alarm_verdicts(summary) == [("warning", "ppo, step 7: The KL reached 31.")]


def test_what_a_stage_came_to_is_printed_once_at_its_own_end(tmp_path, capsys):
    alarm = {"name": "high_kl", "step": 7, "message": "The KL reached 31."}
    summary = {
        "sft": {"kept": "Step 4, the last one, was kept.", "warnings": ["Rows repeat."]},
        "ppo": {"kept": "Step 2 of 12 was kept.", "alarms": [alarm]},
        "group": {"kept": "Step 3 of 12 was kept.", "alarms": [alarm]},
    }
    write_folder(tmp_path, summary, {}, [])
    pipeline._finish(tmp_path, "ppo")
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines] == [
        "note: PPO against the reward model: step 2 of 12 was kept.",
        "warning: ppo, step 7: The KL reached 31.",
    ]
    pipeline._finish(tmp_path, "")  # the quickstart's stages all end here
    assert len(capsys.readouterr().err.splitlines()) == 6


def fitted(stage, rows, *, best_step=0, best_value=None):
    history = [{"step": step, **{f"{stage}/{name}": value for name, value in row.items()}} for step, row in rows]
    return types.SimpleNamespace(history=history, best_step=best_step, best_value=best_value)


def measured(proxy, kl):
    return {"heldout_proxy": proxy, "heldout_kl": kl}


KEPT = {
    "the best of three": (
        [(0, measured(0.5, 0.0)), (4, measured(0.9, 2.0)), (8, measured(0.7, 3.0))],
        4,
        ("Step 4 of 8 was kept", "0.9; 0.5 at step 0", "at most max_kl, 5"),
    ),
    "none was better": (
        [(0, measured(0.5, 0.0)), (4, measured(0.4, 2.0)), (8, measured(0.9, 6.0)), (12, measured(1.0, None))],
        0,
        (
            "No checkpoint beat the SFT policy",
            "3 evaluations",
            "1 had a proxy reward no higher than 0.5",
            "1 had a KL above max_kl, 5",
            "1 had figures that are not finite",
        ),
    ),
    "one evaluation": (
        [(0, measured(0.5, 0.0)), (4, measured(0.5, 0.0))],
        0,
        ("The only evaluation after it had a proxy reward no higher than 0.5",),
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_which_policy_is_kept_and_why(case):
    rows, best, words = KEPT[case]
    said = ending.kept_by_reward("ppo", fitted("ppo", rows, best_step=best), max_kl=5.0, start="the SFT policy")
    for word in words:
        assert word in said["kept"], said
    assert (said["best_step"], said["max_kl"], said["evaluations"]) == (best, 5.0, len(rows) - 1)


@pytest.mark.parametrize(
    ("losses", "keep", "best", "words"),
    [
        ([(10, 2.0), (20, 1.5)], "best", (20, 1.5), "Step 20 of 20 was kept: it has the lowest held-out loss, 1.5."),
        ([(10, 1.0), (20, 1.5)], "last", (20, 1.5), "Step 20, the last one, was kept, with a held-out loss of 1.5."),
        (
            [(0, 0.69), (9, 0.7)],
            "best",
            (0, 0.69),
            "No checkpoint beat the SFT policy: the lowest held-out loss",
        ),
        ([(10, None)], "best", (0, None), "no evaluation after it has a finite held-out loss"),
    ],
)
def test_which_step_is_kept_by_its_loss(losses, keep, best, words):
    rows = [(step, {"heldout_loss": loss}) for step, loss in losses]
    found = fitted("sft", rows, best_step=best[0], best_value=best[1])
    assert words in ending.kept_by_loss("sft", found, keep=keep, start="the SFT policy")["kept"]


@pytest.mark.parametrize(
    ("updates", "skipped", "evaluations", "keep_last", "failed"),
    [
        (8, 8, [0.1], False, "all 8 updates were skipped"),  # an objective that is NaN; the evaluation need not be
        (8, 7, [0.1, 5.7], False, "7 of 8 updates were skipped"),  # a rate of 1e30: the first update alone is finite
        (1, 0, [None], False, "the held-out KL was not finite at any evaluation"),  # the same, of one update
        (8, 1, [0.1, 0.1], False, ""),  # one bad batch: said, and no error
        (8, 3, [0.1, None], False, ""),  # it fell apart after a good checkpoint, which is kept
        (8, 3, [0.1, None], True, "not finite after the last step"),  # or is not
        (8, 0, [0.1], True, ""),
        (0, 0, [], False, ""),
    ],
)
def test_when_nothing_was_trained(updates, skipped, evaluations, keep_last, failed):
    history = [{"step": i, "ppo/heldout_kl": value} for i, value in enumerate(evaluations, 1)]
    figures = {"updates": updates, "skipped_updates": skipped}
    said = ending.failure(figures, history, "ppo/heldout_kl", keep_last=keep_last)
    assert failed in said
    assert bool(failed) is bool(said)


def test_the_error_has_a_status_of_its_own(tmp_path):
    with pytest.raises(ending.NothingTrained, match="all 8 updates were skipped") as caught:
        ending.raise_if_failed(tmp_path, "ppo", {"failed": "all 8 updates were skipped"})
    assert caught.value.exit_code == 3
    ending.raise_if_failed(tmp_path, "ppo", {})


# What a page has to show: summary, config, samples, and words that stand on it.
OWN = {
    **ONLINE,
    "best_step": 8,
    "kept": "Step 8 of 12 was kept.",
    "reward": "mine.py:length",
    "judges": {"helpful": "mine.py:helpful", "short": "mine.py:short"},
    "helpful_win_rate": 0.75,
    "helpful_win_rate_ci": [0.4, 0.9],
    "helpful_before": 1.0,
    "helpful_after": 2.5,
    "short_win_rate": 0.5,
    "rows": {"trained": 40, "held_out": 4, "test": 4, "left_out": 2},
    "kl": 1.0,
    "alarms": [{"name": "constant_reward", "step": 3, "message": "All rewards are the same: look at the function."}],
}
SAMPLE = {"prompt": "p", "before": "", "after": " ", "helpful_before": 1.0, "helpful_after": 2.5, "short_after": -1.0}
MADE = {"finished": "2026-11-27 19:30 UTC", "command": "rlhf ppo --reward mine.py:length", "hardware": "8 x TPU v5"}
PAGES = {
    "a run on one's own data": (
        {"ppo": OWN, "made": {"ppo": MADE}},
        {"ppo": {"out": "runs/a", "iterations": 12, "sampling": {"temperature": 1.0}}},
        [SAMPLE],
        (
            "PPO against mine.py:length",
            "wins by the judge helpful 75.0% (40.0 to 90.0)",
            "mean score by the judge helpful 1.00 → 2.50",
            "helpful 2.50 · short -1.00",
            "(empty)",
            "(white space alone)",
            "40 rows were trained on, 4 held out to choose the checkpoint, 4 for the final figures; 2 were left out",
            "Finished 2026-11-27 19:30 UTC, on 8 x TPU v5",
            "rlhf ppo --reward mine.py:length",
            "iterations 12 30",
            "step 8 of 12 was kept",
            "All rewards are the same",
        ),
        ("gold", "sampling.temperature 1 1", "out runs/a runs/ppo"),
    ),
    "a run all of whose updates were skipped": (
        {"sft": {"updates": 4, "skipped_updates": 4, "best_step": 4, "failed": "all 4 updates were skipped"}},
        {},
        [],
        ("Supervised fine-tuning (failed)", "all 4 updates were skipped", "no result"),
        ("complete",),
    ),
    "a run that gave up": (
        {"failed": {"sft": "sft: the last 20 updates up to step 20 were skipped"}},
        {},
        [],
        ("Supervised fine-tuning (failed)", "the last 20 updates"),
        ("complete",),
    ),
    "a reward model that was measured on three pairs": (
        {
            "reward": {
                "accuracy": 1.0,
                "accuracy_ci": [1.0, 1.0],
                "pairs": 3,
                "ece": 0.488,
                "reliability": [{"low": 0.5, "high": 0.55, "confidence": 0.51, "observed": 1.0, "pairs": 3}],
            }
        },
        {},
        [],
        ("Calibration is not drawn: drawn from 3 pairs it would say nothing.",),
        ("Expected calibration error",),
    ),
    "rated prompts of their own": (
        {
            "reward": {
                "accuracy": 0.7,
                "accuracy_ci": [0.6, 0.8],
                "pairs": 900,
                "accuracy_by_domain": {f"domain {i}": 0.7 for i in range(150)},
                "pairs_by_domain": {f"domain {i}": 6 for i in range(150)},
            }
        },
        {},
        [],
        ("70.0% 60.0 to 80.0 900 pairs", "domain 19 6 70.0%", "130 more are in summary.json, by domain"),
        ("domain 20",),
    ),
}


def words_of(folder) -> tuple[str, str]:
    html = write_report(folder).read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)
    return html, re.sub(r"\s+", " ", text)


def write_folder(folder, summary, config, samples):
    for name, value in (("summary.json", summary), ("config.json", config)):
        (folder / name).write_text(json.dumps(value))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


@pytest.mark.parametrize("case", PAGES)
def test_what_stands_on_the_page(tmp_path, case):
    summary, config, samples, there, not_there = PAGES[case]
    _, text = words_of(write_folder(tmp_path, summary, config, samples))
    for words in there:
        assert words in text, f"{words!r} is not in {text}"
    for words in not_there:
        assert words not in text, words


def test_a_page_never_grows_without_bound(tmp_path):
    """3,000 prompts in domains of their own, with responses of 100,000 letters, at 50 evaluations each."""
    domains = {f"d{i}": 0.5 for i in range(3000)}
    reward = {"accuracy": 0.5, "pairs": 9000, "accuracy_by_domain": domains, "pairs_by_domain": domains}
    summary = {"reward": reward, "ppo": {"best_step": 1}, "agreement": domains}
    long = "word " * 20_000
    samples = [{"prompt": f"p{i}", "domain": f"d{i}", "before": long, "after": long} for i in range(40)]
    samples += [{"stage": "ppo", "step": i, "prompt": f"p{i % 20}", "response": long} for i in range(200)]
    html, text = words_of(write_folder(tmp_path, summary, {}, samples))
    assert len(html) < 1_000_000
    assert "2,980 more are in summary.json, by domain" in text
    assert "8 more are in samples.jsonl" in text
    assert "98,000 more characters" in text


def test_every_text_of_the_page_has_one_typeface(tmp_path):
    html, _ = words_of(write_folder(tmp_path, {"sft": {"heldout_loss": 1.0}}, {}, []))
    assert len(re.findall(r"font(?:-family)?:[^;}]*sans-serif", html)) == 1
    assert "Georgia" not in html


def test_a_curve_that_never_moves_is_a_sentence():
    panels = [
        Panel("beta", [Line("beta", [(1, 0.1), (2, 0.1)])]),
        Panel("loss", [Line("training", [(1, 2.0), (2, 1.0)]), Line("held out", [(2, 1.5)])]),
        Panel("gap", [Line("gap", [(1, 1e-7), (2, 3e-7)])], (0.0, 0.06)),
        Panel("once", [Line("once", [(1, 4.0)])]),
    ]
    shown, still = moving(panels)
    assert [panel.title for panel in shown] == ["loss"]
    assert still == ["beta 0.1", "gap at most 3e-07 (limit 0.06)", "once 4"]


def test_the_alarm_for_a_hacked_reward_takes_the_runs_own_judge():
    rows = [{"step": i, "ppo/heldout_proxy": 1.0 * i, "ppo/heldout_helpful": -1.0 * i} for i in range(4)]
    assert evaluation.alarms(rows) == []
    (found,) = evaluation.alarms(rows, judge="helpful")
    assert "while the helpful score changed by -2.00" in found.message


def test_the_alarm_for_the_kl_has_the_limit_that_was_asked_for():
    rows = [{"step": 3, "ppo/kl": 25.0}]
    assert [alarm.name for alarm in evaluation.alarms(rows)] == ["high_kl"]
    assert evaluation.alarms(rows, max_kl=50.0) == []
    assert "above 5:" in evaluation.alarms(rows, max_kl=5.0)[0].message


def test_judges_of_ones_own_have_diagrams_beside_the_reward():
    rows = [{"stage": "ppo", "step": i, "ppo/heldout_helpful": 1.0 * i, "ppo/heldout_proxy": 1.0 * i} for i in (0, 4)]
    main, other = stage_panels("ppo", rows, {"helpful": "score by helpful"})
    assert [panel.title for panel in main] == ["proxy reward", "score by helpful, held out"]
    assert other == []


def never_finite(outputs, batch):
    return Loss(outputs.logprobs * jnp.nan, batch.mask, losses.token_mean)


def test_a_stage_without_a_result_is_written_and_is_an_error_each_time(tables, tmp_path, one_device, capsys):
    config = tiny_task.sft_config(tables, tmp_path, epochs=1)
    for _ in range(2):  # the second finds it complete
        with pytest.raises(ending.NothingTrained, match="updates were skipped") as caught:
            sft(config, objective=never_finite, mesh=one_device)
        assert caught.value.directory == tmp_path
    assert re.search(r"sft: finished before, on 20..-..-.. ..:.. UTC; .* is returned as it is", capsys.readouterr().err)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sft"]["skipped_updates"] == summary["sft"]["updates"] > 0
    assert summary["sft"]["verdicts"][0]["kind"] == "failed"
    assert (tmp_path / "params" / "sft").is_dir()
    assert "(failed" in words_of(tmp_path)[1]


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        (8, "8 rows were trained on; none was left out; 12 more were not reached, for want of iterations"),
        (20, "20 rows were trained on; none was left out"),
        (64, "20 rows were trained on; none was left out"),
    ],
)
def test_prompts_that_no_iteration_came_to_were_not_trained_on(drawn, says):
    assert rows_sentence(reached({"trained": 20, "left_out": 0}, drawn)) == says
