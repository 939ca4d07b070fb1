"""A judge named in the config: what may be named, what is refused before training, and that it sees a reward hacked."""

import json
import warnings

import numpy as np
import pytest
import tiny_task

from rlhf_jax import stages, training
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages import DataConfig, KLConfig, RunError, Task, find_task, human_sentiment
from rlhf_jax.stages.judges import choose_judges

# The reward counts the letter a. People would like a text that is made of other things too.
JUDGE = """
def varied(prompts, responses):
    return [1.0 - text.count("a") / max(1, len(text)) for text in responses]


def short(prompts, responses):
    return [1.0]


def nan(prompts, responses):
    return [1.0 / len(text) if text else float("nan") for text in responses]


def broken(prompts, responses):
    raise KeyError("no such prompt")
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    file = tmp_path_factory.mktemp("judge") / "judge.py"
    file.write_text(JUDGE)
    return file


def test_what_was_passed_wins_then_the_config_then_the_data_set(judge):
    passed = {"mine": tiny_task.count_a}
    assert choose_judges(passed, f"{judge}:varied", find_task(DataConfig())) is passed
    assert choose_judges({}, f"{judge}:varied", find_task(DataConfig())) == {}
    named = choose_judges(None, f"{judge}:varied", find_task(DataConfig()))
    assert named.keys() == {"gold"}
    assert named["gold"](["p"], ["aabb"]) == [0.5]
    assert choose_judges(None, "", Task()) == {}


def test_a_data_set_has_its_own():
    own = {"gold": tiny_task.count_a}
    assert choose_judges(None, "", Task(judges=lambda: own)) is own
    assert find_task(DataConfig()).judges is human_sentiment.judges


def test_a_run_folder_judges_with_its_reward_model(folder, reward_run):
    gold = choose_judges(None, str(folder), Task())["gold"]
    texts = ["The cat and"] * 2, ["sat had a bath", "fell low"]
    scores = gold(*texts)
    assert scores[0] > scores[1]  # what it learnt from comparisons
    np.testing.assert_array_equal(
        scores, stages.Scorer.load(folder)(["The cat and"] * 2, ["sat had a bath", "fell low"])
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone.py:varied", r"judge .*gone\.py:varied: no such file"),
        ("judge.py:varid", r"has no function 'varid': did you mean 'varied'"),
        ("judge.py", r"judge .*judge\.py: name the function in it too, FILE\.py:function"),
        ("gone", r"judge .*gone: no finished reward stage .*or FILE\.py:function"),
        ("judge.py:short", r"judge .*:short: it returned shape \(1,\) for 2 responses"),
        ("judge.py:nan", r"judge .*:nan: it gave nan to response 0, ''"),
        ("judge.py:broken", r"judge .*:broken: 'no such prompt'"),
    ],
)
@pytest.mark.parametrize("stage", ["ppo", "preference"])
def test_a_judge_that_cannot_be_used_ends_a_stage_before_it_begins(
    judge, tables, folder, sft_run, tmp_path, name, says, stage
):
    make = {"ppo": tiny_task.ppo_config, "preference": tiny_task.preference_config}[stage]
    config = make(tables, tmp_path / "run", policy=folder, judge=str(judge.with_name(name)))
    passed = {"reward": tiny_task.count_a} if stage == "ppo" else {}
    with pytest.raises(RunError, match=says):
        getattr(stages, stage)(config, **passed)
    assert not (tmp_path / "run").exists()


def test_a_judge_that_is_the_proxy_is_warned_of(folder, reward_run, sft_run, tmp_path):
    said = r"judge .* is the reward model .* itself: a gold score that is the proxy shows nothing"
    with pytest.warns(UserWarning, match=said):
        choose_judges(None, str(folder), Task(), reward_model=f"{folder}/../{folder.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_judges(None, str(folder), Task())
        choose_judges(None, str(folder), Task(), reward_model=str(tmp_path))


def test_the_judge_sees_a_reward_hacked_on_anybodys_data(judge, tables, tmp_path, folder, sft_run, one_device, capsys):
    config = tiny_task.ppo_config(
        tables,
        tmp_path,
        policy=folder,
        iterations=10,
        prompts=32,
        eval_every=2,
        kl=KLConfig(coef=0.01, maximum=0.02),
        policy_optimizer=training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
        judge=f"{judge}:varied",
    )
    result = stages.ppo(config, reward=tiny_task.count_a, mesh=one_device)
    alarms = {alarm["name"]: alarm for alarm in result.summary["alarms"]}
    assert "reward_hacking" in alarms
    message = alarms["reward_hacking"]["message"]
    assert f"ppo: warning: {message}" in capsys.readouterr().err.splitlines()
    assert result.summary["gold_after"] < result.summary["gold_before"]
    assert result.summary["proxy_after"] > result.summary["proxy_before"]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().split("\n") if line]
    final = next(row for row in rows if "after" in row)
    assert final["gold_after"] == pytest.approx(1 - final["after"].count("a") / max(1, len(final["after"])))


def test_best_of_n_takes_one_too(judge, tables, folder, sft_run, one_device):
    data = tiny_task.data(tables, "prompts")
    settings = {"reward": tiny_task.count_a, "sampling": tiny_task.ONLINE["sampling"], "mesh": one_device}
    summary, rows = stages.best_of_n(str(folder), "", n=2, data=data, judge=f"{judge}:varied", **settings)
    assert 0 <= summary["gold_win_rate"] <= 1
    assert rows[0]["gold_after"] == pytest.approx(1 - rows[0]["after"].count("a") / max(1, len(rows[0]["after"])))


def test_the_configs_of_all_policy_stages_have_one():
    for kind in (stages.PPOConfig, stages.GroupConfig, stages.PreferenceConfig):
        assert kind(judge="runs/other", data=DataConfig(source="mine.py:task")).judge == ("gold=runs/other",)


def test_a_function_inside_another_is_called_by_a_name_that_people_have_written():
    def inside(prompts, responses):
        return [0.0 for _ in responses]

    assert called(inside) == "test_judges.py:inside"
    assert called(lambda prompts, responses: [0.0]).startswith("test_judges.py:test_a_function_inside_another")
    assert called(lambda prompts, responses: [0.0]).endswith("written")
