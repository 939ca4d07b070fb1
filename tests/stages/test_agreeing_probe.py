"""The probe asks the models of a real run, and the page shows it."""

import json
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax import cli, models
from rlhf_jax.evaluation.monitors.agreeing import TEMPLATES, Question, agreeing, asked
from rlhf_jax.stages import Policy, RunError, Scorer
from rlhf_jax.stages.agreeing import _logprobs, probe_agreeing

QUESTIONS = (
    Question("The cat and", ("sat far", "went low"), ("a cat sat far", "the cat went low")),
    Question("The dog or", ("ran", "fell"), ("ran", "fell")),
)


@pytest.fixture(scope="module")
def probed(ppo_run, tmp_path_factory):
    """The run is everybody's, so a copy is written to."""
    copy = tmp_path_factory.mktemp("probed") / "run"
    shutil.copytree(ppo_run.directory, copy, ignore=shutil.ignore_patterns("checkpoints", "events"))
    return copy, probe_agreeing(copy, questions=QUESTIONS)


def test_the_reward_models_figures_are_those_of_its_scores(probed):
    run, found = probed
    scorer = Scorer.load(run)
    one_by_one = [float(scorer([prompt], [answer])[0]) for prompt, answer in asked(QUESTIONS)]
    expected = agreeing(np.reshape(one_by_one, (2, len(TEMPLATES), 2, 2)))
    assert found["reward"]["gap"] == pytest.approx(expected.gap, abs=1e-5)
    assert found["reward"]["follows"] == expected.follows
    worst = found["examples"][0]
    place = [one.question for one in QUESTIONS].index(worst["question"])
    by_hand = np.reshape(one_by_one, (2, len(TEMPLATES), 2, 2))[place].mean(0)
    np.testing.assert_allclose(worst["scores"], by_hand, atol=1e-4)


def test_the_policy_is_held_against_what_it_started_from(probed):
    _, found = probed
    assert found["stage"] == "ppo"
    assert found["change"] == pytest.approx(found["policy"]["gap"] - found["start"]["gap"], abs=1e-9)
    low, high = found["change_ci"]
    assert low <= found["change"] <= high


def test_the_policys_figures_are_its_log_probabilities(probed):
    """The last answer's, token by token, from the logits of its whole row."""
    run, _ = probed
    policy = Policy.load(run)
    prompt, answer = asked(QUESTIONS)[-1]
    start = policy.tokenizer.encode_prompt(prompt)
    row = np.concatenate([start, policy.tokenizer.encode_response(answer)])
    everything = np.ones((1, len(row)), bool)
    logits = jax.jit(lambda params: models.logits(policy.config, params, row[None], everything))(policy.params)[0]
    by_hand = jax.nn.log_softmax(logits)[np.arange(len(start) - 1, len(row) - 1), row[len(start) :]].sum()
    found = _logprobs(policy, asked(QUESTIONS))
    assert found.shape == (16,)
    assert found[-1] == pytest.approx(float(by_hand), abs=1e-4)


def test_the_command_asks_a_file_and_writes_the_page(probed, tmp_path, capsys, monkeypatch):
    run, _ = probed
    monkeypatch.setattr("rlhf_jax.report.write_report", lambda folder: f"{folder}/report.html")
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "The hen with", "answers": ["sat", "rose"]}\n')
    assert cli.run(["probe", str(run), "--questions", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("reward: the answer that agrees scores")
    assert "nats" in said
    assert said.endswith("report.html\n")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["agreeing"]["questions"] == 1
    file.write_text('{"question": "The hen", "answers": ["sat"]}\n')
    assert cli.run(["probe", str(run), "--questions", str(file)]) == 2
    assert "mine.jsonl:1: 'answers' must be two different texts" in capsys.readouterr().err


def test_what_cannot_be_asked_is_said(probed, tmp_path):
    with pytest.raises(RunError, match="nobody to ask"):
        probe_agreeing(tmp_path)
    with pytest.raises(ValueError, match="no question"):
        probe_agreeing(probed[0], questions=())
