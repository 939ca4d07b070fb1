"""What is built on a stage without a result says so, and so does what takes the place of an unfinished one."""

import json
import shutil

import pytest
import tiny_task

from rlhf_jax.models import LoRAConfig
from rlhf_jax.runs.export import export
from rlhf_jax.runs.loading import start_from
from rlhf_jax.runs.reward_models import load_reward_model
from rlhf_jax.stages import Policy, RunError
from rlhf_jax.stages.attempt import Attempt
from rlhf_jax.stages.ingredients import without_result

WHY = "all 4 updates were skipped, because the loss or a gradient was not finite"


@pytest.fixture
def failed(reward_run, tmp_path):
    """A copy of a folder with SFT and a reward model, whose summary says that both failed."""
    run = tmp_path / "failed"
    shutil.copytree(reward_run.directory, run, ignore=shutil.ignore_patterns("checkpoints", "events", "ppo"))
    summary = json.loads((run / "summary.json").read_text())
    for stage in ("sft", "reward"):
        summary[stage]["failed"] = WHY
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_whoever_reads_its_model_is_warned(failed, tmp_path, one_device):
    for stage, read in (
        ("sft", lambda: Policy.load(failed, "sft")),
        ("sft", lambda: start_from(str(failed), LoRAConfig(), mesh=one_device, seed=0)),
        ("reward", lambda: load_reward_model(failed)),
        ("reward", lambda: export(failed, tmp_path / "exported", stage="reward")),
    ):
        with pytest.warns(UserWarning, match=f"the {stage} stage of .*failed came to no result: all 4 updates were"):
            read()


def test_a_stage_lists_all_that_it_is_built_on(failed, tables, tmp_path):
    reward = tiny_task.reward_config(tables, tmp_path, init=f"{failed}:reward")
    (text,) = without_result(reward)
    assert text == f"the reward stage of {failed} came to no result: {WHY}; what is made of it has none either"
    online = tiny_task.ppo_config(tables, tmp_path, policy=failed, reward=failed, judge=(f"gold={failed}",))
    assert [text.split(" stage")[0] for text in without_result(online)] == ["the sft", "the reward"]  # each once


def test_its_summary_says_so(failed, sft_run, tables, tmp_path):
    watch = Attempt(tmp_path / "next", "sft", tiny_task.sft_config(tables, tmp_path / "next", init=str(failed)))
    parts = {"model_config": sft_run.model_config, "tokenizer": sft_run.tokenizer, "metrics": [], "base": None}
    result = watch.finish(params=sft_run.params, summary={"warnings": ["Rows repeat."]}, **parts)
    first, second = result.summary["warnings"]
    assert WHY in first
    assert second == "Rows repeat."
    assert [v["text"] for v in result.summary["verdicts"] if v["kind"] == "warning"] == [first, second]


def test_a_stage_with_a_result_or_none_at_all_says_nothing(sft_run, tables, tmp_path, recwarn):
    assert without_result(tiny_task.sft_config(tables, tmp_path, init=str(sft_run.directory))) == []
    assert without_result(tiny_task.sft_config(tables, tmp_path, init=str(tmp_path / "gone"))) == []
    Policy.load(sft_run.directory, "sft")
    assert not [w for w in recwarn if "no result" in str(w.message)]


def test_a_stage_that_is_not_finished_is_named(failed, recwarn):
    (failed / "checkpoints" / "ppo" / "2").mkdir(parents=True)
    with pytest.raises(RunError, match=r"no finished ppo stage in .*: it was begun and is not finished"):
        Policy.load(f"{failed}:ppo")
    with pytest.warns(UserWarning, match="the ppo stage of .* is not finished, so the model of its sft stage is taken"):
        assert Policy.load(failed).stage == "sft"
    recwarn.clear()
    assert Policy.load(f"{failed}:sft").stage == "sft"  # who asks for it by name need not be told
    assert not [w for w in recwarn if "is not finished" in str(w.message)]
