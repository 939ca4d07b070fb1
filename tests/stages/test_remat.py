"""``--remat`` of a stage is that of the model it trains, whatever the model's own config says."""

import pytest
import tiny_task

from rlhf_jax import cli, models, stages
from rlhf_jax.runs.loading import start_from

# A command, its config on the models of a run folder, and how it is run.
STAGES = {
    "sft": ("sft", lambda *at, start: tiny_task.sft_config(*at), stages.sft),
    "sft on a trained model": ("sft", lambda *at, start: tiny_task.sft_config(*at, init=str(start)), stages.sft),
    "reward": ("reward", lambda *at, start: tiny_task.reward_config(*at, init=start), stages.reward_model),
    "preference": ("preference", lambda *at, start: tiny_task.preference_config(*at, policy=start), stages.preference),
    "ppo": (
        "ppo",
        lambda *at, start: tiny_task.ppo_config(*at, policy=start),
        lambda config: stages.ppo(config, reward=tiny_task.count_a),
    ),
    "group": (
        "group",
        lambda *at, start: tiny_task.group_config(*at, policy=start),
        lambda config: stages.group(config, reward=tiny_task.count_a),
    ),
}


class Reached(Exception):
    """The stage has built a model that computes again what was asked for."""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("remat", ["dots", "block"])
def test_the_trained_model_computes_again_what_the_stage_says(
    stage, remat, tables, sft_run, folder, tmp_path, monkeypatch
):
    assert sft_run.model_config.remat == "none"
    command, make, run = STAGES[stage]
    config = cli.override(make(tables, tmp_path, start=folder), command, ["--remat", remat])
    build = models.build

    def spied(config):
        if config.remat == remat:
            raise Reached
        return build(config)

    monkeypatch.setattr(models, "build", spied)
    with pytest.raises(Reached):
        run(config)


@pytest.mark.parametrize(("asked", "found"), [("model", "none"), ("block", "block")])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_models_own_config_counts_where_the_stage_says_nothing(asked, found, rank, sft_run, folder, one_device):
    start = start_from(str(folder), models.LoRAConfig(rank=rank), mesh=one_device, seed=0, remat=asked)
    assert start.config.remat == found
