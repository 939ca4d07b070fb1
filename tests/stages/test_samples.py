"""samples.jsonl: what the policy says at every evaluation, beside the final comparison; whoever was killed here."""

import itertools
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.data import write_jsonl
from rlhf_jax.stages import EncodedPrompt, Judged, RunError
from rlhf_jax.stages.samples import SampleLog, read_samples, shown
from rlhf_jax.training import OptimizerConfig


def steps_of(path, stage):
    return [(row["step"], row["prompt"]) for row in read_samples(path) if row.get("stage") == stage]


def test_ppo_keeps_two_prompts_at_every_evaluation(ppo_run):
    rows = read_samples(ppo_run.directory / "samples.jsonl")
    evaluated = [row["step"] for row in ppo_run.metrics if "ppo/heldout_kl" in row]
    compared, seen = rows[:3], rows[3:]
    assert all(row.keys() == {"stage", "step", "prompt", "response", "kl", "proxy", "gold"} for row in seen)
    assert [row["step"] for row in seen] == [step for step in evaluated for _ in range(2)]
    prompts = [row["prompt"] for row in seen]
    assert prompts == prompts[:2] * len(evaluated)
    assert prompts[0] != prompts[1]
    assert all(row["gold"] == row["response"].count("a") for row in seen)
    # All responses of the first evaluation and of the latest are beside it, these two among them.
    held = read_samples(ppo_run.directory / "heldout_samples.jsonl")
    last = max(evaluated)
    assert [row["step"] for row in held] == [0] * (len(held) // 2) + [last] * (len(held) // 2)
    assert [row for row in seen if row["step"] in (0, last)] == [row for row in held if row["prompt"] in prompts[:2]]
    # The rows of the comparison are as they always were.
    assert all(
        list(row) == ["prompt", "domain", "before", "after", "proxy_before", "proxy_after", "gold_before", "gold_after"]
        for row in compared
    )
    # Before the first update the policy is the reference, to which it has no distance.
    assert [row["kl"] for row in seen[:2]] == [0.0, 0.0]


def test_their_scores_are_part_of_the_logged_means(tables, tmp_path, folder, sft_run, one_device):
    """With two held-out prompts the two that are kept are all there is."""
    config = tiny_task.group_config(tables, tmp_path, policy=folder, eval_prompts=2, iterations=2)
    judges = {"letters": lambda _, responses: [len(text) for text in responses]}
    run = stages.group(config, reward=tiny_task.count_a, judges=judges, mesh=one_device)
    rows = [row for row in read_samples(tmp_path / "samples.jsonl") if "step" in row]
    for logged in run.metrics:
        if "group/heldout_kl" in logged:
            here = [row for row in rows if row["step"] == logged["step"]]
            for name in ("kl", "proxy", "letters"):
                assert np.mean([row[name] for row in here]) == pytest.approx(logged[f"group/heldout_{name}"], rel=1e-5)


def test_a_later_stage_keeps_the_evaluations_of_an_earlier_one(tables, tmp_path, folder, sft_run, one_device, capsys):
    """And preference says its alarms as ppo does, while it trains and in its summary."""
    ppo = tiny_task.ppo_config(tables, tmp_path, policy=folder)
    stages.ppo(ppo, reward=tiny_task.count_a, mesh=one_device)
    before = read_samples(tmp_path / "samples.jsonl")
    config = tiny_task.preference_config(
        tables, tmp_path, policy=folder, optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0), eval_every=1
    )
    capsys.readouterr()
    run = stages.preference(config, mesh=one_device, judges={"gold": lambda _, responses: [0.0] * len(responses)})
    rows = read_samples(tmp_path / "samples.jsonl")
    assert [row for row in rows if row.get("stage") == "ppo"] == [row for row in before if "step" in row]
    evaluated = [row["step"] for row in run.metrics if "preference/heldout_loss" in row for _ in range(2)]
    assert [step for step, _ in steps_of(tmp_path / "samples.jsonl", "preference")] == evaluated
    # The comparison is of the stage that finished last, as ever.
    compared = [row for row in rows if "step" not in row]
    assert len(compared) == run.summary["test_prompts"]
    assert all("proxy_after" not in row for row in compared)
    alarms = [alarm for alarm in run.summary["alarms"] if alarm["name"] == "high_kl"]
    assert (run.summary["kl"] > 20) <= bool(alarms)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "preference: warning: " in line] == [
        f"preference: warning: {alarm['message']}" for alarm in run.summary["alarms"]
    ]


def test_preference_sees_a_proxy_that_rises_while_gold_does_not(
    tables, tmp_path, folder, sft_run, reward_run, one_device, capsys, monkeypatch
):
    """A proxy that likes every evaluation more than the one before, and a judge that sees no difference."""
    evaluations = itertools.count()
    module = sys.modules["rlhf_jax.stages.preference"]  # the package has a function of this name
    monkeypatch.setattr(module, "load_reward", lambda *_: lambda _, responses: [next(evaluations)] * len(responses))
    config = tiny_task.preference_config(tables, tmp_path, policy=folder, reward_model=str(folder))
    run = stages.preference(config, mesh=one_device, judges={"gold": lambda _, responses: [0.0] * len(responses)})
    (alarm,) = (alarm for alarm in run.summary["alarms"] if alarm["name"] == "reward_hacking")
    said = capsys.readouterr().err.splitlines()
    assert said.count(f"preference: warning: {alarm['message']}") == 1


# ---- the file by itself ---------------------------------------------------------------------------------------------


def log_with(path, stage, steps):
    log = SampleLog(path, stage)
    for step in steps:
        log.add(step, [{"prompt": "p", "response": f"{stage} {step}"}])
    return log


def test_what_a_killed_run_wrote_after_its_checkpoint_is_dropped(tmp_path):
    log_with(tmp_path, "ppo", [0, 5]).compare([{"prompt": "p", "before": "b", "after": "a"}])
    log = log_with(tmp_path, "group", [0, 10, 20])
    log.rewind(10)
    assert steps_of(log.path, "group") == [(0, "p"), (10, "p")]
    log.rewind(-1)
    assert steps_of(log.path, "group") == []
    assert steps_of(log.path, "ppo") == [(0, "p"), (5, "p")]
    assert [row["after"] for row in read_samples(log.path) if "step" not in row] == ["a"]


def test_a_rewind_of_nothing_makes_no_file(tmp_path):
    SampleLog(tmp_path, "ppo").rewind(-1)
    assert list(tmp_path.iterdir()) == []
    assert read_samples(tmp_path / "samples.jsonl") == []


def test_a_new_comparison_takes_the_place_of_the_old_one(tmp_path):
    log_with(tmp_path, "ppo", [0]).compare([{"prompt": "p", "before": "b", "after": "old"}])
    log_with(tmp_path, "group", [3]).compare([{"prompt": "p", "before": "b", "after": "new"}])
    rows = read_samples(tmp_path / "samples.jsonl")
    assert [row.get("after") for row in rows] == ["new", None, None]
    assert [row["response"] for row in rows[1:]] == ["ppo 0", "group 3"]


def test_text_with_odd_line_ends_and_scores_that_are_no_numbers(tmp_path):
    prompts = [EncodedPrompt(text, np.array([1]), i) for i, text in enumerate(["a\u2028b", "unseen", "c\x85d"])]
    odd = Judged({"kl": np.array([1.5, 0.0, np.nan])}, ["x\ny", "", "\u2029"], [], np.zeros(3, bool))
    rows = shown(odd, prompts)
    assert [row["kl"] for row in rows] == [1.5, None]
    log = SampleLog(tmp_path, "ppo")
    log.add(1, rows)
    log.add(2, rows)
    assert [(row["prompt"], row["response"]) for row in read_samples(log.path)] == [
        ("a\u2028b", "x\ny"),
        ("c\x85d", "\u2029"),
    ] * 2


def test_fewer_prompts_than_two_are_all_there_are():
    one = Judged({"kl": jnp.zeros(1)}, ["x"], [], np.zeros(1, bool))
    assert [row["response"] for row in shown(one, [EncodedPrompt("p", np.array([1]), 0)])] == ["x"]


@pytest.mark.parametrize(("text", "says"), [("{", "not a row of samples"), ("[1]", "expected a JSON object")])
def test_a_damaged_line_is_named(tmp_path, text, says):
    path = tmp_path / "samples.jsonl"
    write_jsonl(path, [{"prompt": "p"}])
    with path.open("a") as file:
        file.write(text + "\n")
    with pytest.raises(RunError, match=rf"samples\.jsonl:2: {says}"):
        read_samples(path)
    assert json.loads(path.read_text().split("\n")[0]) == {"prompt": "p"}
