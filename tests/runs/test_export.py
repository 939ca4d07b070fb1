"""A run's model as a checkpoint: the same outputs, whatever it is called afterwards."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.checkpoint import CheckpointError, StoredLeaf, load_metadata, stored_params
from rlhf_jax.data import Tokenizer
from rlhf_jax.runs.export import export
from rlhf_jax.runs.loading import origin, start_from
from rlhf_jax.stages import Policy, RunError

TOKENS = jnp.array([[1, 5, 9, 20, 7, 0, 0], [1, 30, 8, 11, 12, 13, 2]])
MASK = jnp.array([[True] * 5 + [False] * 2, [True] * 7])


def logits_of(config, params):
    return np.asarray(models.logits(config, params, TOKENS, MASK))[np.asarray(MASK)]


def test_the_policy_comes_back_with_the_same_logits_and_tokens(sft_run, tmp_path):
    folder = export(sft_run.directory, tmp_path / "model", stage="sft")
    config, params = models.load_pretrained(folder)
    want = logits_of(sft_run.model_config, sft_run.params["policy"])
    np.testing.assert_allclose(logits_of(config, params), want, atol=1e-6)
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["LlamaForCausalLM"]
    assert (saved["bos_token_id"], saved["eos_token_id"], saved["pad_token_id"]) == (1, 2, 0)
    again = Tokenizer.load(folder)
    np.testing.assert_array_equal(again.encode_prompt("The cat and"), sft_run.tokenizer.encode_prompt("The cat and"))
    np.testing.assert_array_equal(again.encode_response("sat far"), sft_run.tokenizer.encode_response("sat far"))
    # By its stage: what stands in the run folder beside it depends on the tests before.
    policies = Policy.load(folder), Policy.load(sft_run.directory, stage="sft")
    answer = [next(iter(policy.sample(["The cat and"], seed=3)))["response"] for policy in policies]
    assert answer[0] == answer[1]


def test_the_last_policy_is_exported_by_default(ppo_run, tmp_path):
    _, params = models.load_pretrained(export(ppo_run.directory, tmp_path / "model"))
    jax.tree.map(np.testing.assert_array_equal, params, ppo_run.params["policy"])


def test_a_reward_model_is_a_classifier_with_one_label_and_the_same_scores(reward_run, tmp_path):
    folder = export(reward_run.directory, tmp_path / "model", stage="reward")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    config, params = models.load_pretrained(folder)
    segments = MASK.astype(jnp.int32)
    positions = jnp.maximum(jnp.cumsum(segments, -1) - 1, 0)
    last = jnp.array([4, 6])

    def scores(config, params):
        model = models.build(config)
        return model.scores(params, model.apply(params, TOKENS, positions, segments), last)

    want = scores(reward_run.model_config, reward_run.params["reward"])
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(scores(config, params), want, atol=1e-6)


def test_weights_can_be_narrowed(sft_run, tmp_path):
    _, params = models.load_pretrained(export(sft_run.directory, tmp_path / "model", stage="sft", dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_one_member_of_an_ensemble_is_exported_and_has_to_be_named(reward_run, tmp_path, monkeypatch):
    two = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), reward_run.params)
    loaded = (two, reward_run.model_config, reward_run.tokenizer)
    monkeypatch.setattr("rlhf_jax.runs.export.open_stage", lambda *_: loaded)
    for member in (None, 2, -1):
        with pytest.raises(RunError, match="--member, 0 to 1"):
            export(reward_run.directory, tmp_path / "model", stage="reward", member=member)
    _, params = models.load_pretrained(export(reward_run.directory, tmp_path / "model", stage="reward", member=1))
    np.testing.assert_array_equal(params["head"]["kernel"], 2 * reward_run.params["reward"]["head"]["kernel"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stage": "group"}, "no finished group stage in .*it holds .*sft"),
        ({"stage": "critic"}, "'critic' makes no model: choose one of ppo, "),
        ({"stage": "sft", "member": 0}, "holds one model, no ensemble"),
        ({"stage": "sft", "adapter": True}, "trained all weights and has no adapter"),
    ],
)
def test_what_cannot_be_exported_is_said(sft_run, tmp_path, options, says):
    with pytest.raises(RunError, match=says):
        export(sft_run.directory, tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_else_is_left_alone(sft_run, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(models.CheckpointError, match=r"not a checkpoint \(it holds thesis"):
        export(sft_run.directory, tmp_path, stage="sft")
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_the_checkpoint_that_a_run_started_from_is_left_alone(sft_run, tmp_path, monkeypatch):
    first = export(sft_run.directory, tmp_path / "first", stage="sft")
    monkeypatch.setattr("rlhf_jax.runs.export.origin", lambda *_: first)
    with pytest.raises(RunError, match=r"first is the checkpoint that the sft stage .* started from: name another"):
        export(sft_run.directory, tmp_path / "here" / ".." / "first", stage="sft")


def test_a_model_that_no_family_is_like_is_an_error_of_the_run(sft_run, tmp_path, monkeypatch):
    odd = dataclasses.replace(sft_run.model_config, family="gpt2")
    monkeypatch.setattr("rlhf_jax.runs.export.open_stage", lambda *_: (sft_run.params, odd, sft_run.tokenizer))
    with pytest.raises(RunError, match=r"the sft stage of .* cannot be exported: .*gpt2"):
        export(sft_run.directory, tmp_path / "model", stage="sft")


def test_the_generation_config_of_the_pretrained_model_is_kept_and_ends_where_ours_does(sft_run, tmp_path, monkeypatch):
    first = export(sft_run.directory, tmp_path / "first", stage="sft")
    assert not (first / "generation_config.json").exists()  # from scratch there is nothing to keep
    (first / "generation_config.json").write_text('{"eos_token_id": [7], "top_p": 0.9}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(
        json.dumps({"sft": {"init": str(first)}, "ppo": {"policy": str(tmp_path / "run")}})
    )
    assert origin(tmp_path / "run", "ppo") == first
    monkeypatch.setattr("rlhf_jax.runs.export.origin", lambda *_: origin(tmp_path / "run", "ppo"))
    second = export(sft_run.directory, tmp_path / "second", stage="sft")
    kept = json.loads((second / "generation_config.json").read_text())
    assert kept == {"eos_token_id": [2, 7], "top_p": 0.9, "pad_token_id": 0}


def test_a_stage_starts_from_an_adapter_of_pefts_as_from_its_merged_model(sft_run, tmp_path, one_device):
    below = export(sft_run.directory, tmp_path / "below", stage="sft")
    config, params = models.load_pretrained(below)
    lora = models.LoRAConfig(rank=2, targets="query$|up$")
    config, params = models.add_adapters(config, params, lora, jax.random.key(0))
    params = jax.tree.map_with_path(lambda path, x: x + 0.1 if path[-1].key == "lora_b" else x, params)
    models.save_peft(tmp_path / "adapter", config, params, base=str(below))
    started = start_from(str(tmp_path / "adapter"), models.LoRAConfig(), mesh=one_device, seed=0)
    want = logits_of(*models.merge(config, params))
    assert np.abs(want - logits_of(*models.load_pretrained(below))).max() > 1e-3
    np.testing.assert_allclose(logits_of(started.config, started.params), want, atol=1e-6)
    assert started.tokenizer.to_json() == Tokenizer.load(below).to_json()
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(below), "someone/model"))
    with pytest.raises(models.CheckpointError, match="base_model_name_or_path 'someone/model' is no checkpoint here"):
        start_from(str(tmp_path / "adapter"), models.LoRAConfig(), mesh=one_device, seed=0)


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_weights_go_from_disk_to_disk_one_layer_of_one_leaf_at_a_time(sft_run, tmp_path, monkeypatch, dtype):
    """The largest array that is ever there is one layer of a matrix, or an embedding."""
    read, original = [], StoredLeaf.__getitem__

    def counted(self, index):
        found = original(self, index)
        read.append(found.size)
        return found

    folder = sft_run.directory / "params" / "sft"
    checked = stored_params(folder)[0]["policy"]  # its hashes are compared before anything is written
    monkeypatch.setattr(StoredLeaf, "__getitem__", counted)
    monkeypatch.setattr("rlhf_jax.runs.loading.checkpoint.stored_params", lambda path: ({"policy": checked}, metadata))
    metadata = load_metadata(folder)
    _, params = models.load_pretrained(export(sft_run.directory, tmp_path / "model", stage="sft", dtype=dtype))
    wanted = jax.tree.map(lambda x: x.astype(dtype) if dtype else x, sft_run.params["policy"])
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    one_layer = max(x.size // x.shape[0] for x in jax.tree.leaves(sft_run.params["policy"]["blocks"]))
    assert max(read) <= max(one_layer, sft_run.params["policy"]["embedding"].size)


def test_stored_weights_that_were_changed_on_the_disk_are_not_exported(sft_run, tmp_path):
    shutil.copytree(sft_run.directory, tmp_path / "run")
    files = [f for f in (tmp_path / "run" / "params" / "sft" / "arrays").rglob("*") if f.is_file()]
    data = max(files, key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointError, match="params/sft: leaf"):
        export(tmp_path / "run", tmp_path / "model", stage="sft")
    assert not (tmp_path / "model").exists()
