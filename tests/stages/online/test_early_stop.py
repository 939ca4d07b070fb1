"""``stop_kl`` and ``patience`` of ppo and group: the policy is pulled back, then the run stops, also after a kill."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.stages import GroupConfig, KLConfig, PPOConfig
from rlhf_jax.stages.online.guard import KLGuard
from rlhf_jax.training import OptimizerConfig

# A policy that leaves its reference at once, and a limit that it passes at its first evaluation.
RUNAWAY = {
    "iterations": 6,
    "eval_every": 1,
    "stop_kl": 0.02,
    "max_kl": 0.02,
    "kl": KLConfig(coef=0.01, target=0.01, maximum=0.05),
    "policy_optimizer": OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
}


@pytest.fixture(scope="module")
def run_away(tables, tmp_path_factory, folder, sft_run, one_device):
    """Train until the guard ends it; the settings can be changed."""

    def run(out=None, reward=tiny_task.count_a, **changes):
        out = tmp_path_factory.mktemp("ppo") if out is None else out
        config = tiny_task.ppo_config(tables, out, policy=folder, **{**RUNAWAY, **changes})
        return stages.ppo(config, reward=reward, mesh=one_device)

    return run


@pytest.fixture(scope="module")
def stopped_run(run_away):
    return run_away()


def figures(run, name):
    return {row["step"]: row[f"ppo/{name}"] for row in run.metrics if f"ppo/{name}" in row}


def test_the_policy_is_pulled_back_and_then_the_run_stops(stopped_run):
    kl, beta, limit = figures(stopped_run, "heldout_kl"), figures(stopped_run, "kl_coef"), RUNAWAY["stop_kl"]
    above = [step for step in kl if kl[step] > limit]
    first, second = above
    summary = stopped_run.summary
    assert summary["stopped_early"]
    assert f"above stop_kl ({limit:g})" in summary["stop_reason"]
    assert f"set to its maximum after step {first}" in summary["stop_reason"]
    assert summary["steps"] == second == max(kl) < RUNAWAY["iterations"]
    # From the iteration after the first evaluation on, beta is the maximum; before it, the controller's.
    assert all(beta[step] < 0.05 for step in beta if step <= first)
    assert beta[first + 1] == pytest.approx(0.05)
    # What the run leaves is what every run leaves.
    assert (stopped_run.directory / "params" / "ppo").exists()
    assert {"kl", "proxy_win_rate", "alarms", "curve"} <= summary.keys()
    assert kl[summary["best_step"]] <= RUNAWAY["max_kl"]  # a checkpoint above max_kl is never the best one


# The reward is called for the evaluation of step 0, then for the samples and the evaluation of each step.
CALLS = {"before it is seen": 3, "when it is pulled back": 4, "after that": 5}


@pytest.mark.parametrize("moment", CALLS)
def test_a_run_that_died_is_pulled_back_and_stops_like_one_that_did_not(stopped_run, run_away, tmp_path, moment):
    assert figures(stopped_run, "heldout_kl")[1] > RUNAWAY["stop_kl"]
    calls = []

    def dies(prompts, responses):
        calls.append(len(responses))
        if len(calls) == CALLS[moment]:
            raise MemoryError
        return tiny_task.count_a(prompts, responses)

    with pytest.raises(MemoryError):
        run_away(tmp_path, reward=dies)
    assert not (tmp_path / "params" / "ppo").exists()
    again = run_away(tmp_path, accept_changed=("reward",))  # by content, the one that dies is another
    jax.tree.map(np.testing.assert_array_equal, again.params, stopped_run.params)
    assert again.metrics == stopped_run.metrics
    assert again.summary == stopped_run.summary
    texts = [(run.directory / "samples.jsonl").read_text() for run in (again, stopped_run)]
    assert texts[0] == texts[1]


def test_what_is_said_while_it_happens(run_away, capsys):
    run_away()
    said = [line for line in capsys.readouterr().err.splitlines() if "stop_kl" in line]
    assert len(said) == 2
    assert said[0].startswith("ppo: warning: at step ")
    assert said[0].endswith("the KL coefficient is set to its maximum, 0.05, to pull the policy back")
    assert said[1].startswith("ppo: stopped early at step ")


def test_patience_counts_evaluations_without_a_better_held_out_reward(run_away):
    """A reward that is always the same never gets better than before the first update."""
    run = run_away(reward=lambda prompts, responses: [1.0] * len(responses), patience=2, stop_kl=0.0)
    assert run.summary["steps"] == 2
    assert run.summary["stopped_early"]
    assert run.summary["stop_reason"] == "2 evaluations passed without a better selection"
    assert run.summary["best_step"] == 0


def test_a_run_that_ends_by_itself_is_not_stopped(ppo_run):
    assert (ppo_run.summary["stopped_early"], ppo_run.summary["stop_reason"]) == (False, None)
    assert ppo_run.summary["steps"] == ppo_run.config.iterations


# ---- the guard by itself --------------------------------------------------------------------------------------------


def checks(config, kls, host=None):
    guard = KLGuard("group", config, {} if host is None else host)
    return [guard.check(step, kl) for step, kl in enumerate(kls)]


def test_a_policy_that_comes_back_goes_on():
    config = PPOConfig()
    assert (config.stop_kl, config.patience) == (20.0, 0)
    assert not any(checks(config, [0.0, 5.0, 20.0, 25.0, 19.0, 3.0]))
    assert checks(config, [25.0, 3.0, 21.0])[:2] == ["", ""]
    assert checks(config, [25.0, 3.0, 21.0])[2].endswith("was set to its maximum after step 0")


@pytest.mark.parametrize("kind", ["fixed", "objective"])
def test_without_a_controller_the_first_one_stops(kind):
    kl = KLConfig(kind=kind)
    assert checks(PPOConfig(kl=kl), [19.0, 21.0])[1].endswith("21.0 nats a response, above stop_kl (20)")


def test_after_the_last_iteration_there_is_nothing_to_stop():
    assert checks(PPOConfig(iterations=1, kl=KLConfig(kind="fixed")), [21.0, 21.0])[1] == ""


def test_off_is_off_and_a_kl_that_is_no_number_is_no_small_one():
    assert not any(checks(PPOConfig(stop_kl=0.0), [1e9, 1e9]))
    assert checks(GroupConfig(), [float("nan")]) != [""]


def test_what_it_knows_is_json_and_a_new_guard_goes_on_from_it():
    host = {"seconds": 1.0}
    assert checks(PPOConfig(), [1.0, 30.0], host) == ["", ""]
    again = KLGuard("ppo", PPOConfig(), json.loads(json.dumps(host)))
    assert (again.pulls(0), again.pulls(1), again.pulls(2)) == (False, True, False)
    assert again.check(2, 30.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patience": -1}, "patience must be 0"),
        ({"stop_kl": -0.1}, "stop_kl must be 0"),
        ({"stop_kl": float("nan")}, "stop_kl must be a finite number"),
        ({"stop_kl": 6.0}, r"stop_kl \(6\) must be above kl\.target \(6\)"),
        ({"kl": KLConfig(kind="banded", high=25.0)}, r"stop_kl \(20\) must be above kl\.high \(25\)"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        PPOConfig(**changes)


def test_a_limit_below_max_kl_is_warned_of():
    with pytest.warns(UserWarning, match=r"stop_kl is 20, .*max_kl \(50\)"):
        config = PPOConfig(max_kl=50.0)
    assert dataclasses.replace(config, stop_kl=0.0).stop_kl == 0.0


def test_a_stage_says_what_it_was_made_of(ppo_run):
    summary = json.loads((ppo_run.directory / "summary.json").read_text())
    ppo = summary["ppo"]
    assert ppo["reward"] == ppo_run.config.reward_model
    assert ppo["judges"] == {"gold": "tiny_task.py:count_a"}
    assert ppo["rows"] == {"trained": 30, "held_out": 3, "test": 3, "left_out": 0}
    assert any("was kept" in verdict["text"] for verdict in ppo["verdicts"])
    assert set(summary["made"]) == {"sft", "reward", "ppo"}
    assert summary["made"]["ppo"]["hardware"].startswith("8 x cpu, ")
