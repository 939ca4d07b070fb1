"""The first evaluation beside the latest: what was found while a stage trains, after kills too."""

import json

import numpy as np
import planted_hacks as planted
import pytest

from rlhf_jax.report import write_report
from rlhf_jax.stages import EncodedPrompt, Judged
from rlhf_jax.stages.heldout_samples import FirstAndLatest, first_and_latest
from rlhf_jax.stages.monitors import FEWEST
from rlhf_jax.stages.samples import read_samples
from rlhf_jax.stages.watcher import PolicyWatcher

BEFORE, AFTER, REWARD_BEFORE, REWARD_AFTER = planted.hacked(lambda text: f"As an AI, {text}")
PROMPTS = [EncodedPrompt(f"question {i}", np.array([1, 2]), i) for i in range(len(BEFORE))]


def judged(texts, rewards):
    tokens = [np.array([1])] * len(texts)
    scores = {"kl": np.zeros(len(texts)), "proxy": np.asarray(rewards)}
    return Judged(scores, list(texts), tokens, np.ones(len(texts), bool))


def evaluate(watcher, step, texts, rewards):
    watcher.saw(judged(texts, rewards))
    watcher.evaluated(step, {"heldout_kl": 0.0})


def watched(folder):
    return PolicyWatcher(folder, "ppo", PROMPTS)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "ppo", "step": 0, "ppo/heldout_kl": 0.0}\n')
    return tmp_path


def test_an_alarm_comes_at_the_evaluation_that_shows_it(folder, capsys):
    watcher = watched(folder)
    evaluate(watcher, 0, BEFORE, REWARD_BEFORE)
    evaluate(watcher, 10, BEFORE, REWARD_BEFORE)
    assert capsys.readouterr().err == ""
    evaluate(watcher, 20, AFTER, REWARD_AFTER)
    said = capsys.readouterr().err
    assert said.startswith("ppo: warning: The reward pays for a form: the opening “as an ai,”")
    evaluate(watcher, 30, AFTER, REWARD_AFTER)
    assert capsys.readouterr().err == ""  # once
    assert {row["step"] for row in read_samples(watcher.heldout.path)} == {0, 30}


def test_a_resumed_run_is_compared_with_its_own_first_evaluation(folder, capsys):
    watcher = watched(folder)
    evaluate(watcher, 0, BEFORE, REWARD_BEFORE)
    evaluate(watcher, 20, AFTER, REWARD_AFTER)
    capsys.readouterr()
    again = watched(folder)
    again.rewind(10)  # the checkpoint is older than the evaluation
    assert {row["step"] for row in read_samples(again.heldout.path)} == {0}
    evaluate(again, 20, AFTER, REWARD_AFTER)
    assert "as an ai" in capsys.readouterr().err
    assert again.heldout.compared()[1] == watcher.heldout.compared()[1]
    from_scratch = watched(folder)
    from_scratch.rewind(-1)
    evaluate(from_scratch, 0, AFTER, REWARD_AFTER)
    assert {row["step"] for row in read_samples(from_scratch.heldout.path)} == {0}


def test_what_was_found_after_the_kept_step_stays_an_alarm(folder):
    """The checkpoint that is kept is the start, which has found nothing."""
    watcher = watched(folder)
    evaluate(watcher, 0, BEFORE, REWARD_BEFORE)
    evaluate(watcher, 20, AFTER, REWARD_AFTER)
    same = watcher.compared(planted.as_rows(BEFORE, BEFORE, REWARD_BEFORE, REWARD_BEFORE), 0)
    assert [(alarm["name"], alarm["step"]) for alarm in same["alarms"]] == [("rewarded_form", 20)]
    assert same["monitors"]["rises"] == []
    last = watcher.compared(planted.as_rows(BEFORE, AFTER, REWARD_BEFORE, REWARD_AFTER), 15)
    assert [(alarm["name"], alarm["step"]) for alarm in last["alarms"]] == [("rewarded_form", 15)]
    assert json.loads(json.dumps(last["monitors"]))["compared"] == 100


def test_the_page_of_a_run_that_goes_on_has_what_was_found_so_far(folder):
    watcher = watched(folder)
    evaluate(watcher, 0, BEFORE, REWARD_BEFORE)
    evaluate(watcher, 20, AFTER, REWARD_AFTER)
    page = write_report(folder).read_text()
    assert "Not complete" in page
    assert ">step 20</span><span>The reward pays for a form: the opening “as an ai,”" in page
    assert "<mark>As an AI,</mark>" in page


def test_stages_do_not_mix_and_other_prompts_are_not_compared(tmp_path):
    row = {"prompt": "p", "response": "a", "proxy": 1.0}
    for stage in ("ppo", "group"):
        log = FirstAndLatest(tmp_path, stage)
        log.add(0, [row])
        log.add(5, [{**row, "response": stage, "proxy": None}])
    rows = read_samples(log.path)
    compared = {"prompt": "p", "before": "a", "proxy_before": 1.0, "proxy_after": None}
    assert first_and_latest(rows, "ppo") == (5, [{**compared, "after": "ppo"}])
    assert first_and_latest(rows, "group") == (5, [{**compared, "after": "group"}])
    assert first_and_latest(rows, "preference") == (0, [])
    log.add(9, [{**row, "prompt": "another"}])
    assert log.compared() == (9, [])
    assert FEWEST > 1  # of so few nothing is said
