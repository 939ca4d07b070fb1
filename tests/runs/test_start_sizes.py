"""The sizes that a plan takes are those of what the stage would start from, and so is what may be started from."""

import dataclasses
import json

import gguf_files
import pytest
import tiny_task

from rlhf_jax import cli, models
from rlhf_jax.cli.stage_options import sizes_for
from rlhf_jax.runs.pretrained import read_checkpoint
from rlhf_jax.runs.start_sizes import start_sizes
from rlhf_jax.stages import PPOConfig, RewardConfig, RunError, SFTConfig
from rlhf_jax.stages.profile.packed import packed_work

SIZES = {"vocab_size": 40, "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A checkpoint that scores; nothing but its config is read."""
    folder = tmp_path_factory.mktemp("checkpoints") / "classifier"
    folder.mkdir()
    named = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    more = {"model_type": "llama", "head_dim": 4, "intermediate_size": 16, "vocab_size": 40}
    kind = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1, "id2label": {"0": "score"}}
    (folder / "config.json").write_text(json.dumps({**named, **more, **kind}))
    (folder / "model.safetensors").touch()
    return folder


def test_a_reward_model_may_start_from_a_classifier_and_a_policy_may_not(classifier, capsys):
    found = start_sizes(str(classifier), scores=True)
    assert {name: vars(found)[name] for name in SIZES} == SIZES
    assert not found.scalar_head
    with pytest.raises(RunError, match="a sequence classifier: it scores text and writes none"):
        start_sizes(str(classifier))
    assert cli.run(["inspect", "sft", "--init", str(classifier)]) == 2
    assert "it scores text and writes none" in capsys.readouterr().err
    assert cli.run(["plan", "reward", "--init", str(classifier), "--hardware", "h100x1"]) == 0
    # The table, two layers of matrices and norms, the last norm, the head.
    count = 40 * 8 + 2 * (4 * 64 + 3 * 128 + 2 * 8) + 8 + 8
    assert f"reward, {count:,} parameters" in capsys.readouterr().out


def test_a_stage_of_a_run_has_the_sizes_of_its_parameters(sft_run, tables, tmp_path):
    found = start_sizes(str(sft_run.directory))
    assert (found.d_model, found.n_layers, found.vocab_size) == (16, 2, sft_run.model_config.vocab_size)
    assert start_sizes(f"{sft_run.directory}:group") is None  # what is not there yet may be planned all the same
    config = tiny_task.ppo_config(tables, tmp_path, policy=sft_run.directory)
    assert sizes_for(config, None) == found
    assert sizes_for(PPOConfig(policy="nowhere"), None) is None
    computed = models.ModelConfig(compute_dtype="bfloat16")
    sft = sizes_for(SFTConfig(init=str(sft_run.directory), model=computed), None)
    assert sft == dataclasses.replace(found, compute_dtype="bfloat16")  # as the stage computes


def test_a_gguf_file_has_them_in_its_head(tmp_path):
    path = tmp_path / "model.gguf"
    gguf_files.write(path, "llama", gguf_files.hf_tensors("llama"))
    config, _ = read_checkpoint(path)
    assert start_sizes(str(path)) == config


@pytest.mark.parametrize("rank", [0, 2])
def test_a_reward_model_of_the_first_layers_is_counted_as_such(rank, one_device):
    lora, whole = models.LoRAConfig(rank=rank), models.ModelConfig(**SIZES)
    shape = {"rows": 2, "row_length": 32, "data": tiny_task.data(".", "none")}
    config = RewardConfig(init="nowhere", lora=lora, layers=1, **shape)
    work = packed_work(config, whole, one_device, shapes=True)
    assert work.trained.n_layers == 1
    kernel = work.program.state.params["reward"]["blocks"]["attention"]["query"]
    trained = kernel["lora_a"] if rank else kernel["kernel"]
    assert trained.shape[0] == 1
