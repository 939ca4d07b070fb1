"""A run folder of the version before can be read, and its finished stages are returned without work."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax import stages


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
