"""A run folder of the version before can be read, and its finished stages are returned without work."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax import checkpoint, stages
from rlhf_jax.checkpoint import CheckpointError, Checkpoints
from rlhf_jax.models import ModelConfig
from rlhf_jax.runs import fingerprint
from rlhf_jax.runs.loading import load_stage


def test_a_config_without_fields_that_came_later_is_the_same_config(sft_run, tmp_path, one_device, idle):
    """Nested ones too; and a field that was there and differs is still named."""
    out = tmp_path / "run"
    shutil.copytree(sft_run.directory, out)
    file = out / "config.json"
    config = json.loads(file.read_text())
    del config["sft"]["data"]["test"], config["sft"]["keep"], config["sft"]["lora"], config["sft"]["hyperparameters"]
    file.write_text(json.dumps(config))
    same = dataclasses.replace(sft_run.config, out=str(out))
    again = stages.sft(same, mesh=one_device)
    jax.tree.map(np.testing.assert_array_equal, again.params, sft_run.params)
    config["sft"]["data"]["limit"] = 5
    file.write_text(json.dumps(config))
    with pytest.raises(stages.RunError, match=r"another config \(data\.limit was 5 and is now 0\)"):
        stages.sft(same, mesh=one_device)


@pytest.mark.parametrize("remat", [False, True])
def test_what_is_computed_again_and_by_which_kernel_has_no_say_in_the_result(
    sft_run, tmp_path, one_device, idle, remat
):
    """Remat was a bool once."""
    out = tmp_path / "run"
    shutil.copytree(sft_run.directory, out)
    config = json.loads((out / "config.json").read_text())
    config["sft"]["model"]["remat"] = remat
    del config["sft"]["remat"], config["sft"]["model"]["attention"]
    (out / "config.json").write_text(json.dumps(config))
    same = dataclasses.replace(sft_run.config, out=str(out), remat="block")
    again = stages.sft(same, mesh=one_device)
    jax.tree.map(np.testing.assert_array_equal, again.params, sft_run.params)


def test_a_half_finished_stage_of_the_version_before_goes_on(tmp_path):
    """Its checkpoint has no field that came later; one that was there and differs is still named."""
    config = stages.PPOConfig(seed=3)
    old = fingerprint.fingerprint(config)
    del old["critic"], old["critic_gradient"], old["sampling"]["int8"], old["sampling"]["stop"]
    before = Checkpoints(tmp_path, fingerprint=old)
    before.save(2, {"x": np.arange(3.0)}, {})
    before.wait()

    def resumed(config):
        brought_up = functools.partial(fingerprint.brought_up, config=config)
        return Checkpoints(tmp_path, fingerprint=fingerprint.fingerprint(config), brought_up=brought_up)

    assert resumed(config).restore({"x": np.zeros(3)}).step == 2
    with pytest.raises(CheckpointError, match=r'critic was "own" and is now "head"'):
        resumed(dataclasses.replace(config, critic="head")).restore({"x": np.zeros(3)})


def test_a_kernel_that_is_not_here_is_named_before_anything_is_read(tmp_path, one_device):
    config = stages.SFTConfig(out=str(tmp_path / "run"), model=ModelConfig(attention="cudnn"))
    with pytest.raises(stages.RunError, match=r"^model.attention='cudnn' needs a GPU, found cpu.*: use 'auto'$"):
        stages.sft(config, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_device_is_read_and_takes_the_kernel_that_is_here(sft_run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(sft_run.directory, out)
    params, metadata = checkpoint.load_params(out / "params" / "sft")
    shutil.rmtree(out / "params" / "sft")
    metadata["model"]["attention"] = "cudnn"
    checkpoint.save_params(out / "params" / "sft", params, metadata)
    assert load_stage(out, "sft")[1].attention == "auto"
