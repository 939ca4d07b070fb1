"""The sentences say what the figures say, whichever way those fall."""

from __future__ import annotations

import pytest

from rlhf_jax.report import verdicts

KL_MISSED = "The PPO policy is 8.0 nats a response from the SFT policy; the limit is max_kl, 6."


def test_bar_met_and_aim_missed():
    found = verdicts(
        {
            "reward": {"accuracy": 0.712, "accuracy_ci": [0.70, 0.72], "warnings": ["Rewards are saturated."]},
            "baselines": {"ridge": 0.738, "vader": 0.70, "single_rater": 0.82},
        }
    )
    assert [verdict.kind for verdict in found] == ["met", "missed", "met", "note", "warning"]
    assert "71.2%" in found[0].text
    assert "the bar of 70% is met" in found[0].text
    assert "2.6 points below the aim, ridge" in found[1].text
    assert "1.2 points above VADER's word list (70.0%), a difference within its own 95% interval" in found[2].text
    assert "10.8 points below" in found[3].text


def test_bar_missed():
    assert verdicts({"reward": {"accuracy": 0.66}, "baselines": {"ridge": 0.738}})[0].kind == "missed"


def test_other_peoples_data_has_no_bar():
    (verdict,) = verdicts({"reward": {"accuracy": 0.66}})
    assert verdict.kind == "note"
    assert "bar" not in verdict.text


@pytest.mark.parametrize(
    ("interval", "kind", "words"),
    [
        ([0.52, 0.66], "met", "better than"),
        ([0.48, 0.62], "missed", "holds 50%"),
        ([0.30, 0.45], "missed", "worse than"),
        (None, "note", "no interval"),
    ],
)
def test_win_rate(interval, kind, words):
    (verdict,) = verdicts({"ppo": {"gold_win_rate": 0.5, "gold_win_rate_ci": interval}})
    assert verdict.kind == kind
    assert words in verdict.text


def test_kl():
    assert verdicts({"ppo": {"kl": 8.0, "max_kl": 10.0}})[0].kind == "met"
    assert verdicts({"ppo": {"kl": 8.0, "max_kl": 6.0}})[0] == ("missed", KL_MISSED)
    assert verdicts({"ppo": {"kl": 8.0}})[0].kind == "note"


@pytest.mark.parametrize(
    ("stage", "figures", "name"),
    [
        ("ppo", {}, "PPO"),
        ("ppo", {"objective": "a2c"}, "a2c"),
        ("group", {"objective": "rlhf_jax.objectives.rloo.rloo(kl_coef=0.05)"}, "rloo"),
        ("preference", {"objective": "losses/mine.py:hinge"}, "hinge"),
        ("best_of_n", {"n": 16}, "best-of-16"),
    ],
)
def test_the_policy_of_every_stage_is_named(stage, figures, name):
    win, kl = verdicts({stage: {"gold_win_rate": 0.6, "gold_win_rate_ci": [0.52, 0.66], "kl": 3.0, **figures}})
    assert f"the gold judge prefers the {name} policy to the SFT policy 60.0% of the time" in win.text
    assert kl.text.startswith(f"The {name} policy is 3.0 nats a response from the SFT policy")


def test_several_policies_in_the_order_of_the_stages():
    found = verdicts(
        {"preference": {"objective": "dpo", "kl": 25.0, "accuracy": 0.59}, "ppo": {"kl": 5.0, "max_kl": 20}}
    )
    assert [verdict.kind for verdict in found] == ["met", "note", "note"]
    assert "PPO" in found[0].text
    assert "implicit reward of the dpo policy ranks 59.0% of held-out pairs" in found[2].text


def test_labels_have_a_sentence_of_their_own():
    (verdict,) = verdicts({"preference": {"objective": "kto", "label_auc": 0.731, "label_auc_ci": [0.7, 0.76]}})
    assert verdict.kind == "note"
    assert "the kto policy puts thumbs up above thumbs down in 73.1% of held-out couples" in verdict.text


def test_a_kl_estimated_just_below_zero_reads_as_zero():
    assert "is 0.0 nats" in verdicts({"group": {"kl": -0.03}})[0].text


def test_nothing_yet():
    assert verdicts({}) == []


def test_warnings_of_every_stage_are_said_once():
    said = "too few rows for three parts"
    found = verdicts({"sft": {"warnings": [said]}, "ppo": {"warnings": [said, "other"], "kl": 1.0}})
    assert [verdict.text for verdict in found if verdict.kind == "warning"] == [said, "other"]


def test_baselines_of_a_users_own_have_no_bar_to_reach():
    (verdict,) = verdicts({"reward": {"accuracy": 0.6}, "baselines": {"length": 0.55}})
    assert verdict.kind == "note"


def test_a_policy_is_compared_with_the_one_it_started_from():
    win, kl = verdicts(
        {"ppo": {"gold_win_rate": 0.6, "gold_win_rate_ci": [0.5, 0.7], "kl": 3.0, "started_from": "preference"}}
    )
    assert "to the preference policy 60.0% of the time" in win.text
    assert "nats a response from the preference policy" in kl.text
