"""A judge that votes as a reward: numbers of votes, abstentions that teach nothing, the reference as an opponent."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages
from rlhf_jax.feedback.judges import from_scores, votes_of_scores
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.stages import JudgeReward, RunError, Task
from rlhf_jax.stages.judge_reward import filled, judged_rollout
from rlhf_jax.stages.judges import choose_judges, choose_reward

JUDGES = """
from rlhf_jax.feedback.judges import votes_of_scores


def more_a(prompts, responses):
    assert all(len(set(texts)) == len(texts) for texts in responses)  # nobody is asked about equal texts
    votes = votes_of_scores([[text.count("a") for text in texts] for texts in responses], scale=0.0)
    votes[["cat" in prompt for prompt in prompts]] = float("nan")
    return votes


def count_a(prompts, responses):
    return [float(text.count("a")) for text in responses]

"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    file = tmp_path_factory.mktemp("judges") / "judges.py"
    file.write_text(JUDGES)
    return file


def by_length(prompts, responses):
    return votes_of_scores([[len(text) for text in texts] for texts in responses], scale=0.0)


def test_the_reward_is_the_mean_of_the_votes_against_the_others_and_equal_texts_are_even():
    reward = JudgeReward(by_length)
    found = reward.among(["p", "p", "p"], [["aa", "a", "aaa"], ["a", "a", "bb"], ["c", "c", "c"]])
    assert found.tolist() == [[0.5, 0.0, 1.0], [0.25, 0.25, 1.0], [0.5, 0.5, 0.5]]
    for row in found:  # what one wins the others lose
        assert row.mean() == pytest.approx(0.5)


def test_of_a_judge_that_scores_the_reward_is_the_score_for_one_alone_too():
    reward = JudgeReward(from_scores(tiny_task.count_a))
    assert reward.among(["p"], [["a", "aa", "a"]]).tolist() == [[1.0, 2.0, 1.0]]
    assert reward(["p", "q"], ["a", "aaa"]).tolist() == [1.0, 3.0]


def test_an_abstention_is_the_mean_of_the_group_and_no_vote():
    def knows_no_b(prompts, responses):
        return votes_of_scores([[np.nan if "b" in x else len(x) for x in texts] for texts in responses], scale=0.0)

    found = JudgeReward(knows_no_b).among(["p", "p"], [["a", "aa", "b"], ["b", "bb", "bbb"]])
    assert found[0, :2].tolist() == [0.0, 1.0]
    assert np.isnan(found).tolist() == [[False, False, True], [True, True, True]]
    assert filled(found, "it").tolist() == [[0.0, 1.0, 0.5], [0.5, 0.5, 0.5]]
    with pytest.raises(RunError, match="it abstained on all of 3 responses"):
        filled(found[1:], "it")


def test_a_judge_that_compares_measures_nothing_alone_and_a_broken_one_shows_before_training(judges):
    with pytest.raises(RunError, match="compares responses and scores none alone"):
        choose_judges(None, f"judge:{judges}:more_a", Task())
    gold = choose_judges(None, f"judge:scores:{judges}:count_a", Task())["gold"]
    assert list(gold(["p", "p"], ["a", "aaa"])) == [1.0, 3.0]
    with pytest.raises(RunError, match="must return votes"):
        JudgeReward(lambda prompts, responses: "yes").scores(["p"])
    with pytest.raises(RunError, match="has no function 'less_a'"):
        choose_reward(None, f"judge:{judges}:less_a")
    with pytest.raises(RunError, match="an empty text"):
        choose_reward(None, "judge:")


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory, folder, sft_run, one_device, judges):
    """Online DPO by a judge that prefers more of the letter a."""
    settings = {**tiny_task.ONLINE, "prompts": 8, "samples": 4, "epochs": 1, "iterations": 6, "eval_every": 6}
    config = stages.GroupConfig(
        **{**settings, "eval_prompts": 18, "test_prompts": 18},
        out=str(tmp_path_factory.mktemp("judged")),
        policy=str(folder),
        objective="online_dpo",
        shaping=ShapingConfig(no_eos_penalty=0.0),
        reward=f"judge:{judges}:more_a",
        judge=(f"letters=judge:scores:{judges}:count_a",),
        data=tiny_task.data(tables, "prompts", heldout=str(tables / "prompts.jsonl")),
    )
    return config, stages.group(config, mesh=one_device)


def test_online_dpo_learns_what_a_judge_prefers(trained):
    config, run = trained
    summary = run.summary
    assert summary["reward"] == config.reward
    assert summary["judges"] == {"letters": config.judge[0].partition("=")[2]}
    assert summary["letters_after"] > summary["letters_before"]
    # The held-out figure is the judge's vote against the reference's own response, which is the one compared with.
    assert summary["proxy_before"] == 0.5
    assert summary["proxy_after"] > 0.5
    for row in tiny_task.compared(run):
        better = np.sign(row["after"].count("a") - row["before"].count("a"))
        if "cat" not in row["prompt"]:
            assert row["proxy_after"] == 0.5 + 0.5 * better


def test_abstentions_are_counted_in_the_metrics(trained):
    _, run = trained
    rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    found = [(row["group/abstained"], row["group/paired"]) for row in rows if "group/abstained" in row]
    assert len(found) == 6
    assert 0 < max(abstained for abstained, _ in found) < 1
    # Where it abstained all samples of a prompt have one reward, so that online DPO has no pair.
    assert all(abstained <= 1 - paired + 1e-6 for abstained, paired in found)


def test_the_same_folder_does_not_go_on_with_another_judge_of_the_same_name(trained, judges, one_device):
    config, _ = trained
    stages.group(config, mesh=one_device)
    judges.write_text(JUDGES.replace('text.count("a") for text in texts', "-len(text) for text in texts"))
    try:
        with pytest.raises(RunError, match=r"reward is still called .*more_a, but holds something else now"):
            stages.group(config, mesh=one_device)
    finally:
        judges.write_text(JUDGES)


def test_best_of_n_by_a_judge(tables, folder, sft_run, one_device, judges):
    summary, rows = stages.best_of_n(
        str(folder),
        "",
        n=8,
        reward=f"judge:{judges}:more_a",
        judges={"letters": tiny_task.count_a},
        data=tiny_task.data(tables, "prompts", heldout=str(tables / "prompts.jsonl")),
        sampling=tiny_task.ONLINE["sampling"],
        mesh=one_device,
    )
    assert summary["reward"].startswith("judge:")
    assert summary["proxy_before"] == 0.5
    assert all(row["letters_after"] >= row["letters_before"] for row in rows)


class Sampled:
    """A sampler of texts that are given, in place of a policy."""

    reference = "the reference"

    def __init__(self, others):
        self.others = others

    def texts(self, sampled):
        return sampled.texts

    def __call__(self, policy, prompts, step):
        assert policy == "the reference"
        return SimpleNamespace(texts=self.others)


def test_a_response_alone_is_judged_against_the_reference():
    prompts = [SimpleNamespace(text=text) for text in ("p", "q", "r")]
    sampled = SimpleNamespace(texts=["aa", "b", "ccc"], tokens=np.zeros((3, 1, 4)))
    found, abstained = judged_rollout(JudgeReward(by_length), Sampled(["a", "b", "cccc"]), sampled, prompts)
    assert found.tolist() == [[1.0], [0.5], [0.0]]
    assert not abstained.any()
    alone, _ = judged_rollout(JudgeReward(from_scores(tiny_task.count_a)), Sampled(None), sampled, prompts)
    assert alone.tolist() == [[2.0], [0.0], [0.0]]
