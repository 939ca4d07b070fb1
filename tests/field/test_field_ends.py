"""How a run ends, as a table: what happened, and what console, summary and page have to say about it."""

from __future__ import annotations

import types

import pytest

from rlhf_jax.stages import ending
from rlhf_jax.stages.verdicts import alarm_verdicts, stage_verdicts

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
            "nothing to judge: the gold judge, the judge short, the reward itself, KL",
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
            "the reward itself (mine.py:length) prefers the PPO policy",
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
        ("60.0% of 24 held-out pairs", "no better than chance is shown"),
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


def fitted(stage, rows, *, best_step=0, best_value=None):
    history = [{"step": step, **{f"{stage}/{name}": value for name, value in row.items()}} for step, row in rows]
    return types.SimpleNamespace(history=history, best_step=best_step, best_value=best_value)


def evaluation(proxy, kl):
    return {"heldout_proxy": proxy, "heldout_kl": kl}


KEPT = {
    "the best of three": (
        [(0, evaluation(0.5, 0.0)), (4, evaluation(0.9, 2.0)), (8, evaluation(0.7, 3.0))],
        4,
        ("Step 4 of 8 was kept", "0.9; 0.5 at step 0", "at most max_kl, 5"),
    ),
    "none was better": (
        [(0, evaluation(0.5, 0.0)), (4, evaluation(0.4, 2.0)), (8, evaluation(0.9, 6.0)), (12, evaluation(1.0, None))],
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
        [(0, evaluation(0.5, 0.0)), (4, evaluation(0.5, 0.0))],
        0,
        ("Among the only evaluation", "no higher than 0.5"),
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
