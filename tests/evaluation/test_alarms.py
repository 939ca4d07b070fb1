"""Each alarm rings when it should, at the step it should, and is silent on a run that goes well."""

from __future__ import annotations

import math

import pytest

from rlhf_jax.evaluation import (
    alarms,
    flat_reward,
    high_kl,
    logprob_gap,
    mode_collapse,
    negative_kl,
    reward_hacking,
    skipped_updates,
)


def of_stage(stage: str, rows: list[dict]) -> list[dict]:
    """The same figures as another stage would log them."""
    return [
        {name.replace("ppo/", f"{stage}/"): stage if value == "ppo" else value for name, value in row.items()}
        for row in rows
    ]


def healthy(steps: int = 60) -> list[dict]:
    rows = []
    for i in range(steps):
        f = 1 - math.exp(-i / 20)
        row = {
            "stage": "ppo",
            "step": i,
            "ppo/kl": 8 * f + 0.1 * (-1) ** i,
            "ppo/proxy_std": 1.0,
            "ppo/distinct_2": 0.6,
            "ppo/most_common": 0.02,
            "ppo/skipped": 0.0,
            "ppo/logprob_gap": 1e-6,
        }
        if i % 5 == 0:
            row |= {"ppo/heldout_proxy": 2 * f, "ppo/heldout_gold": 0.8 * f, "ppo/heldout_kl": 8 * f}
        rows.append(row)
    return rows


def test_a_healthy_run_is_silent():
    assert alarms(healthy()) == []
    assert alarms([]) == []


def test_negative_kl_needs_a_whole_window():
    rows = [{"step": i, "ppo/kl": -0.4 if 20 <= i < 25 else 0.6} for i in range(60)]
    assert negative_kl(rows) is None
    rows = [{"step": i, "ppo/kl": 0.5 if i < 20 else -0.5} for i in range(60)]
    found = negative_kl(rows, window=10)
    # Ten steps with more than half of them below: at 25, 6 x -0.5 + 4 x 0.5 = -1 nat in all
    assert found is not None
    assert found.step == 25


def test_high_kl_in_training_or_on_held_out_prompts():
    rows = [{"step": 1, "ppo/kl": 19.9}, {"step": 2, "ppo/kl": 25.0}, {"step": 3, "ppo/kl": 30.0}]
    found = high_kl(rows)
    assert found is not None
    assert (found.step, "25.0 nats" in found.message) == (2, True)
    assert high_kl([{"step": 5, "ppo/kl": 3.0, "ppo/heldout_kl": 21.0}]).step == 5


def test_reward_hacking_when_gold_turns():
    rows = [{"step": 10 * i, "ppo/heldout_proxy": 0.3 * i, "ppo/heldout_gold": 0.2 * min(i, 4)} for i in range(12)]
    found = reward_hacking(rows)
    # Gold is flat from 40 on: only the window of four evaluations that starts there has halves alike.
    assert found is not None
    assert found.step == 70
    assert "From step 40 to 70" in found.message


def test_reward_hacking_wants_a_rise_of_the_proxy():
    flat = [{"step": i, "ppo/heldout_proxy": 0.001 * i, "ppo/heldout_gold": 0.0} for i in range(20)]
    assert reward_hacking(flat) is None
    both_fall = [{"step": i, "ppo/heldout_proxy": -1.0 * i, "ppo/heldout_gold": -1.0 * i} for i in range(20)]
    assert reward_hacking(both_fall) is None
    with pytest.raises(ValueError, match="even"):
        reward_hacking([], window=3)


def test_reward_hacking_measures_the_rise_in_the_proxys_own_spread():
    rows = [{"step": i, "ppo/heldout_proxy": 1.0 * i, "ppo/heldout_gold": 0.0} for i in range(6)]
    assert reward_hacking(rows) is not None
    assert reward_hacking([{"step": 0, "ppo/proxy_std": 100.0}, *rows]) is None


def test_mode_collapse_by_copies_and_by_diversity():
    assert mode_collapse([{"step": 1, "ppo/most_common": 0.5}]) is None
    assert "51%" in mode_collapse([{"step": 2, "ppo/most_common": 0.51}]).message
    assert mode_collapse([{"step": 3, "ppo/distinct_2": 0.01}]).step == 3


def test_skipped_updates_are_summed():
    found = skipped_updates(
        [{"step": 1, "ppo/skipped": 0}, {"step": 2, "ppo/skipped": 1}, {"step": 4, "ppo/skipped": 3}]
    )
    assert found is not None
    assert found.step == 2
    assert "2 step(s), 4 in all" in found.message


def test_logprob_gap_on_either_side():
    assert logprob_gap([{"step": 0, "ppo/logprob_gap": -0.2}]).step == 0
    assert logprob_gap([{"step": 0, "ppo/logprob_gap": 0.01}]) is None


def test_missing_and_non_finite_figures_are_passed_over():
    rows = [{"step": 0}, {"step": 1, "ppo/kl": None}, {"step": 2, "ppo/kl": float("nan")}]
    assert alarms(rows) == []


@pytest.mark.parametrize("stage", ["group", "preference", "mine"])
def test_every_alarm_rings_for_the_figures_of_any_stage(stage):
    rows = [
        {
            "stage": "ppo",
            "step": i,
            "ppo/kl": -1.0,
            "ppo/heldout_kl": 30.0,
            "ppo/heldout_proxy": 1.0 * i,
            "ppo/heldout_gold": -1.0 * i,
            "ppo/most_common": 0.9,
            "ppo/skipped": 1.0,
            "ppo/logprob_gap": 1.0,
        }
        for i in range(12)
    ]
    expected = alarms(rows)
    assert len(expected) == 6
    assert alarms(of_stage(stage, rows), stage=stage) == expected
    for check in (negative_kl, high_kl, reward_hacking, mode_collapse, skipped_updates, logprob_gap):
        assert check(of_stage(stage, rows), stage=stage) == check(rows)


def test_a_stage_looks_at_its_own_figures_only():
    bad = [{"stage": "ppo", "step": i, "ppo/kl": 40.0, "ppo/skipped": 1.0} for i in range(12)]
    good = of_stage("group", healthy())
    assert alarms(bad + good, stage="group") == []
    assert {alarm.name for alarm in alarms(bad + good)} == {"high_kl", "skipped_updates"}


def test_alarms_come_in_the_order_of_their_steps():
    rows = [{"step": 1, "ppo/logprob_gap": 1.0}, {"step": 2, "ppo/kl": 50.0}, {"step": 3, "ppo/most_common": 1.0}]
    assert [alarm.step for alarm in alarms(rows)] == [1, 2, 3]


def evaluated(kl: float, proxies: list[float], spread: float = 1.0) -> list[dict]:
    """Every tenth step is evaluated."""
    return [
        {"step": 10 * i, "ppo/heldout_kl": kl, "ppo/heldout_proxy": proxy, "ppo/proxy_std": spread}
        for i, proxy in enumerate(proxies)
    ]


def test_a_flat_reward_at_a_low_kl():
    found = flat_reward(evaluated(0.02, [1.0, 1.05, 0.99, 1.02]))
    assert found is not None
    # (1.05 + 0.99) / 2 - 1
    assert (found.name, found.step) == ("flat_reward", 20)
    assert "0.02 nats" in found.message
    assert "+0.02 standard deviations" in found.message
    assert "reward's weight or lower beta" in found.message
    assert found in alarms(evaluated(0.02, [1.0, 1.05, 0.99, 1.02]))


def test_a_flat_reward_is_no_alarm_while_a_run_begins_or_where_the_policy_moves():
    flat = [1.0] * 6
    assert flat_reward(evaluated(0.02, flat), from_step=40).step == 40
    assert flat_reward(evaluated(0.02, flat[:2])) is None
    assert flat_reward(evaluated(0.5, flat)) is None  # that is another trouble
    assert flat_reward(evaluated(0.02, [1.0, 1.1, 1.2, 1.3])) is None
    # A tenth of the reward's own spread is a rise.
    assert flat_reward(evaluated(0.02, [1.0, 1.02, 1.02], spread=0.1)) is None
    assert flat_reward(evaluated(0.02, [1.0, 1.02, 1.02], spread=1.0)) is not None
    # A constant reward has an alarm of its own; a stage that samples no batches trains on no reward.
    assert flat_reward(evaluated(0.02, flat, spread=0.0)) is None
    assert flat_reward([{k: v for k, v in row.items() if "std" not in k} for row in evaluated(0.02, flat)]) is None
