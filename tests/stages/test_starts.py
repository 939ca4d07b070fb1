"""Any stage starts from any policy stage: ``RUN:STAGE``, with all weights and with adapters."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import checkpoint, models, stages
from rlhf_jax.models import LoRAConfig
from rlhf_jax.runs import loading
from rlhf_jax.runs.loading import start_from
from rlhf_jax.stages import RunError
from rlhf_jax.stages.scoring import load_reward

LORA = LoRAConfig(rank=2, alpha=16.0)
SHORT = {"iterations": 1, "eval_every": 1}


@pytest.fixture(scope="module")
def run(tables, ppo_run, tmp_path_factory):
    """A copy of the folder of the three tiny stages, in which PPO's policy is far from the SFT policy."""
    place = tmp_path_factory.mktemp("starts") / "run"
    shutil.copytree(ppo_run.directory, place)
    params, metadata = checkpoint.load_params(place / "params" / "ppo")
    shutil.rmtree(place / "params" / "ppo")
    checkpoint.save_params(place / "params" / "ppo", jax.tree.map(lambda x: 1.5 * x, params), metadata)
    return place


@pytest.fixture(scope="module")
def ppo_policy(run):
    return loading.load_stage(run, "ppo")[0]["policy"]


@pytest.fixture(scope="module")
def preference_run(tables, run, one_device):
    """Preference optimisation with adapters on the PPO policy, in the same folder."""
    config = tiny_task.preference_config(tables, run, policy=f"{run}:ppo", lora=LORA, epochs=1)
    return stages.preference(config, judges={"gold": tiny_task.count_a}, mesh=one_device)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def test_the_default_is_sft_and_another_stage_is_named(run, sft_run, ppo_policy, one_device):
    for text, policy in (
        (run, sft_run.params["policy"]),
        (f"{run}:sft", sft_run.params["policy"]),
        (f"{run}:ppo", ppo_policy),
    ):
        start = start_from(str(text), LoRAConfig(), mesh=one_device, seed=0)
        same(start.params, policy)
        assert start.base is None


def test_the_reference_of_a_policy_is_the_stage_it_started_from(run, ppo_policy, preference_run):
    _, metadata = checkpoint.load_params(run / "params" / "preference")
    assert (metadata["base"]["path"], metadata["base"]["stage"]) == (".", "ppo")
    same(models.split(preference_run.params["policy"])[1], ppo_policy)
    assert preference_run.metrics[0]["preference/heldout_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert preference_run.metrics[0]["preference/heldout_kl"] == 0.0


def test_group_training_goes_on_in_the_same_folder_with_the_adapter_folded_in(tables, run, preference_run, one_device):
    config = tiny_task.group_config(tables, run, policy=f"{run}:preference", reward=run, lora=LORA, **SHORT)
    result = stages.group(config, judges={}, mesh=one_device)
    merged = models.merge(preference_run.model_config, preference_run.params["policy"])[1]
    same(models.split(result.params["policy"])[1], merged)
    assert next(row["group/kl"] for row in result.metrics if "group/kl" in row) == 0.0
    params = loading.load_stage(run, "group")[0]
    same(params["policy"], result.params["policy"])


def test_ppo_starts_from_the_preference_stage_of_its_own_folder(tables, run, tmp_path, one_device):
    """All weights: SFT, reward model, preference optimisation and PPO, one after the other in one folder."""
    place = tmp_path / "run"
    for stage in ("sft", "reward"):
        shutil.copytree(run / "params" / stage, place / "params" / stage)
    shutil.copy(run / "tokenizer.json", place)
    config = tiny_task.preference_config(tables, place, policy=place, epochs=1)
    before = stages.preference(config, judges={}, mesh=one_device)
    config = tiny_task.ppo_config(tables, place, policy=f"{place}:preference", reward=place, **SHORT)
    result = stages.ppo(config, judges={}, mesh=one_device)
    assert next(row["ppo/kl"] for row in result.metrics if "ppo/kl" in row) == 0.0
    start = start_from(f"{place}:preference", LoRAConfig(), mesh=one_device, seed=0)
    same(start.params, before.params["policy"])
    assert stages.ppo(config, judges={}, mesh=one_device).summary == result.summary
    with pytest.raises(RunError, match=r"ppo stage of another config .starts_from was .preference. and is now .group."):
        stages.ppo(dataclasses.replace(config, policy=f"{place}:group"), judges={}, mesh=one_device)


def test_sft_a_reward_model_and_best_of_n_start_there_too(tables, run, tmp_path, one_device):
    config = tiny_task.sft_config(tables, tmp_path / "sft", init=f"{run}:ppo", epochs=1)
    assert stages.sft(config, mesh=one_device).summary["steps"] > 0
    config = tiny_task.reward_config(tables, tmp_path / "reward", init=f"{run}:ppo", epochs=1)
    assert stages.reward_model(config, mesh=one_device).summary["steps"] > 0
    data = tiny_task.data(tables, "prompts", heldout=str(tables / "prompts.jsonl"))
    settings = {"n": 2, "reward": tiny_task.count_a, "data": data, "judges": {}, "mesh": one_device, "test_prompts": 8}
    settings |= {"sampling": tiny_task.ONLINE["sampling"]}
    rows = {text: stages.best_of_n(text, "", **settings)[1] for text in (str(run), f"{run}:sft", f"{run}:ppo")}
    assert rows[str(run)] == rows[f"{run}:sft"] != rows[f"{run}:ppo"]


def test_another_stage_of_the_same_folder_is_another_start(tables, run, preference_run, one_device):
    """A finished stage is not taken for one that started elsewhere."""
    for policy in (str(run), f"{run}:sft"):
        config = dataclasses.replace(preference_run.config, policy=policy)
        with pytest.raises(RunError, match=r"preference stage of another config \(starts_from is gone \(was .ppo.\)"):
            stages.preference(config, mesh=one_device)
    again = stages.preference(preference_run.config, judges={}, mesh=one_device)
    assert again.summary == preference_run.summary


def test_an_interrupted_stage_does_not_go_on_from_another_start(tables, run, tmp_path, one_device, monkeypatch):
    config = tiny_task.preference_config(tables, tmp_path, policy=f"{run}:ppo", epochs=1, checkpoint_every=1)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlhf_jax.runs.folder.finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            stages.preference(config, judges={}, mesh=one_device)
    with pytest.raises(RunError, match="starts_from"):
        stages.preference(dataclasses.replace(config, policy=str(run)), judges={}, mesh=one_device)


def test_a_stage_cannot_start_from_itself(tables, run, one_device):
    with pytest.raises(RunError, match=r"the ppo stage of .* cannot start from itself"):
        stages.ppo(tiny_task.ppo_config(tables, run, policy=f"{run}:ppo", reward=run), mesh=one_device)
    with pytest.raises(RunError, match=r"the preference stage of .* cannot start from itself"):
        stages.preference(tiny_task.preference_config(tables, run, policy=f"{run}:preference"), mesh=one_device)
    with pytest.raises(RunError, match=r"the sft stage of .* cannot start from itself"):
        stages.sft(tiny_task.sft_config(tables, run, init=str(run)), mesh=one_device)


def test_a_reward_model_takes_no_stage(reward_run):
    with pytest.raises(
        RunError, match=r"reward_model .*:reward: its reward stage is meant, so name the run folder alone"
    ):
        load_reward(f"{reward_run.directory}:reward", reward_run.tokenizer)
