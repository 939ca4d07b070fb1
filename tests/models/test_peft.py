"""Adapters in PEFT's format: what files hold, what comes back, and what is refused; peft itself is in tests/parity."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.models import CheckpointError, LoRAConfig, ModelConfig
from rlhf_jax.models.peft import load_peft, save_peft
from rlhf_jax.models.weights import TensorInfo, safetensors_source, write_safetensors

SIZES = {"vocab_size": 24, "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 12}
PLAIN = {"norm": "layer", "mlp_bias": True, "gated_mlp": False, "qkv_bias": True, "out_bias": True}
FAMILIES = {
    "llama": ModelConfig(**{**SIZES, "n_kv_heads": 1}),
    "gpt2": ModelConfig(**SIZES, family="gpt2", positions="learned", max_length=16, activation="gelu_tanh", **PLAIN),
    "gpt_neox": ModelConfig(**SIZES, family="gpt_neox", activation="gelu", parallel_residual=True, **PLAIN),
}
LORA = LoRAConfig(rank=3, alpha=5.0, dropout=0.1)
PREFIX = "base_model.model."


def adapted(config, lora=LORA):
    """A model's config and random weights, and the same with adapters that change something."""
    params = random_like(jax.eval_shape(models.build(config).init, jax.random.key(0)), 0)
    adapted_config, with_adapters = models.add_adapters(config, params, lora, jax.random.key(1))
    own, trunk = models.split(with_adapters)
    return params, adapted_config, models.join(random_like(own, 1), trunk)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


def tensors(folder, name="adapter_model.safetensors"):
    """Everything in a file, read by its format."""
    data = (folder / name).read_bytes()
    length = int.from_bytes(data[:8], "little")
    found = {}
    for key, entry in json.loads(data[8 : 8 + length]).items():
        if key != "__metadata__":
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            found[key] = np.frombuffer(data[start:stop], np.float32).reshape(entry["shape"])
    return found


def write(folder, values, fields):
    """An adapter's folder, made anew."""
    folder.mkdir(exist_ok=True)
    file = folder / "adapter_model.safetensors"
    file.unlink(missing_ok=True)
    infos = {name: TensorInfo(x.shape, x.dtype.name) for name, x in values.items()}
    write_safetensors(file, infos, values.__getitem__)
    (folder / "adapter_config.json").write_text(json.dumps(fields))


def fields(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Llama with adapters on query and up, and what was saved of it."""
    config = FAMILIES["llama"]
    params, adapted_config, with_adapters = adapted(config, dataclasses.replace(LORA, targets="query$|up$"))
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    save_peft(folder, adapted_config, with_adapters, base="someone/base")
    return config, params, with_adapters, tensors(folder), fields(folder)


def test_the_files_are_as_peft_writes_them(saved):
    _, _, params, values, config = saved
    assert {name: x.shape for name, x in values.items() if ".0." in name} == {
        f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight": (3, 8),
        f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight": (8, 3),
        f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.weight": (3, 8),
        f"{PREFIX}model.layers.0.mlp.up_proj.lora_B.weight": (12, 3),
    }
    assert len(values) == 8
    up = params["blocks"]["mlp"]["up"]
    np.testing.assert_array_equal(values[f"{PREFIX}model.layers.1.mlp.up_proj.lora_A.weight"], up["lora_a"][1].T)
    np.testing.assert_array_equal(values[f"{PREFIX}model.layers.1.mlp.up_proj.lora_B.weight"], up["lora_b"][1].T)
    assert config == {
        "alpha_pattern": {},
        "base_model_name_or_path": "someone/base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 5,
        "lora_dropout": 0.1,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 3,
        "rank_pattern": {},
        "target_modules": ["q_proj", "up_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


@pytest.mark.parametrize("targets", [LORA.targets, "query$|value$|down$"], ids=["all", "some"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_change_the_checkpoint_s_matrices_as_merging_does(family, targets, tmp_path):
    """``W + alpha / r B A`` with the files' own tensors, fused or not, is what ``merge`` gives and is then saved."""
    config = FAMILIES[family]
    params, adapted_config, with_adapters = adapted(config, dataclasses.replace(LORA, targets=targets))
    save_peft(tmp_path / "adapter", adapted_config, with_adapters)
    models.save_pretrained(tmp_path / "base", config, params)
    models.save_pretrained(tmp_path / "merged", *models.merge(adapted_config, with_adapters))
    own, asked = tensors(tmp_path / "adapter"), fields(tmp_path / "adapter")
    base, merged = (tensors(tmp_path / name, "model.safetensors") for name in ("base", "merged"))
    changed = 0
    for name, before in base.items():
        module = name.removesuffix(".weight")
        change = np.zeros_like(before)
        if f"{PREFIX}{module}.lora_A.weight" in own:
            a, b = (own[f"{PREFIX}{module}.lora_{half}.weight"] for half in "AB")
            end = next((end for end in asked["rank_pattern"] if module.endswith(end)), None)
            rank = asked["rank_pattern"].get(end, asked["r"])
            assert a.shape[0] == b.shape[1] == rank == (9 if "c_attn" in name or "query_key" in name else 3)
            change = asked["alpha_pattern"].get(end, asked["lora_alpha"]) / rank * b @ a
            change = change.T if asked["fan_in_fan_out"] else change
            changed += 1
            assert any(module.endswith(f".{target}") for target in asked["target_modules"])
            assert np.abs(change).max() > 0.5
        np.testing.assert_allclose(merged[name], before + change, atol=1e-5)
    assert changed == len(own) // 2 > 0


@pytest.mark.parametrize("targets", [LORA.targets, "query$|value$", "key$", "out$|up$"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_comes_back_bit_for_bit(family, targets, tmp_path):
    config = FAMILIES[family]
    params, adapted_config, with_adapters = adapted(config, dataclasses.replace(LORA, targets=targets))
    save_peft(tmp_path / "adapter", adapted_config, with_adapters)
    again_config, again = load_peft(tmp_path / "adapter", config, params)
    jax.tree.map(np.testing.assert_array_equal, again, with_adapters)
    assert again["embedding"] is params["embedding"]
    again_lora = dataclasses.replace(again_config.lora, targets=targets)
    assert dataclasses.replace(again_config, lora=again_lora) == adapted_config
    paths = [f"blocks/{part}/{name}" for part in ("attention", "mlp") for name in params["blocks"][part]]
    assert [again_config.lora.adapts(path) for path in paths] == [adapted_config.lora.adapts(path) for path in paths]


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_come_back_too(family, tmp_path):
    """B is zero altogether then, which is no sign of a part without an adapter."""
    config = FAMILIES[family]
    params = adapted(config)[0]
    adapted_config, fresh = models.add_adapters(config, params, LORA, jax.random.key(2))
    save_peft(tmp_path / "adapter", adapted_config, fresh)
    jax.tree.map(np.testing.assert_array_equal, load_peft(tmp_path / "adapter", config, params)[1], fresh)


def test_a_reward_model_s_head_goes_with_its_adapters(tmp_path):
    config = FAMILIES["llama"]
    params, adapted_config, with_adapters = adapted(dataclasses.replace(config, scalar_head=True))
    save_peft(tmp_path / "adapter", adapted_config, with_adapters)
    asked = fields(tmp_path / "adapter")
    assert (asked["task_type"], asked["modules_to_save"]) == ("SEQ_CLS", ["score"])
    head = tensors(tmp_path / "adapter")[f"{PREFIX}score.weight"]
    np.testing.assert_array_equal(head, with_adapters["head"]["kernel"].T)
    # Onto the language model below, which has no head.
    trunk = {name: x for name, x in params.items() if name != "head"}
    again_config, again = load_peft(tmp_path / "adapter", config, trunk)
    assert again_config.scalar_head
    jax.tree.map(np.testing.assert_array_equal, again, with_adapters)


def test_an_eight_bit_trunk_takes_an_adapter(saved, tmp_path):
    config, params, _, values, asked = saved
    write(tmp_path / "adapter", values, asked)
    small_config, small = models.quantise(config, params)
    found_config, found = load_peft(tmp_path / "adapter", small_config, small)
    assert found_config.lora.int8_trunk
    assert found["blocks"]["mlp"]["up"]["kernel"] is small["blocks"]["mlp"]["up"]["kernel"]
    save_peft(tmp_path / "again", found_config, found)
    assert tensors(tmp_path / "again").keys() == values.keys()


def test_half_precision_is_read_into_float32(saved, tmp_path):
    config, params, _, values, asked = saved
    half = {name: x.astype(jnp.bfloat16) for name, x in values.items()}
    write(tmp_path / "adapter", half, asked)
    _, found = load_peft(tmp_path / "adapter", config, params)
    a = found["blocks"]["mlp"]["up"]["lora_a"]
    assert a.dtype == jnp.float32
    expected = half[f"{PREFIX}model.layers.1.mlp.up_proj.lora_A.weight"].astype(np.float32).T
    np.testing.assert_array_equal(a[1], expected)


def test_a_fused_adapter_of_somebody_else_is_dealt_out_to_query_key_and_value(tmp_path):
    """Heads of GPT-NeoX have their query, key and value rows next to each other: 4 rows each, 12 a head."""
    config = FAMILIES["gpt_neox"]
    params = adapted(config)[0]
    rng = np.random.default_rng(5)
    name = f"{PREFIX}gpt_neox.layers.{{}}.attention.query_key_value.lora_"
    values = {}
    for layer in range(2):
        values[name.format(layer) + "A.weight"] = rng.normal(size=(2, 8)).astype(np.float32)
        values[name.format(layer) + "B.weight"] = rng.normal(size=(24, 2)).astype(np.float32)
    write(tmp_path, values, {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query_key_value"]})
    found_config, found = load_peft(tmp_path, config, params)
    assert found_config.lora.rank == 2
    assert found_config.lora.alpha == 4
    b = values[name.format(1) + "B.weight"]
    rows = {"query": [*range(4), *range(12, 16)], "key": [*range(4, 8), *range(16, 20)]}
    rows["value"] = [*range(8, 12), *range(20, 24)]
    for part, own in rows.items():
        leaves = found["blocks"]["attention"][part]
        np.testing.assert_array_equal(leaves["lora_a"][1], values[name.format(1) + "A.weight"].T)
        np.testing.assert_array_equal(leaves["lora_b"][1], b[own].T)


def test_rank_stabilised_scaling_becomes_an_alpha(saved, tmp_path):
    """alpha / sqrt(r) = 5 / sqrt(3) there is 8.66 / 3 here."""
    config, params, _, values, asked = saved
    write(tmp_path, values, {**asked, "use_rslora": True})
    lora = load_peft(tmp_path, config, params)[0].lora
    assert lora.alpha == pytest.approx(8.660254)
    assert lora.alpha / lora.rank == pytest.approx(5 / 3**0.5)


def test_harmless_fields_and_names_of_other_families_are_no_trouble(saved, tmp_path):
    config, params, with_adapters, values, asked = saved
    targets = [*asked["target_modules"], "c_attn", "query_key_value"]
    extra = {"peft_version": "0.99", "layers_to_transform": None, "loftq_config": {}, "qalora_group_size": 16}
    write(tmp_path, values, {**asked, **extra, "target_modules": targets})
    jax.tree.map(np.testing.assert_array_equal, load_peft(tmp_path, config, params)[1], with_adapters)
    write(tmp_path, values, {**asked, "target_modules": r".*\.(q|up)_proj"})
    jax.tree.map(np.testing.assert_array_equal, load_peft(tmp_path, config, params)[1], with_adapters)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "field use_dora is set"),
        ({"bias": "all"}, "field bias is 'all'"),
        ({"lora_bias": True}, "field lora_bias"),
        ({"layers_to_transform": [0]}, "field layers_to_transform"),
        ({"trainable_token_indices": [3]}, "field trainable_token_indices"),
        ({"something_new": {"a": 1}}, "field something_new"),
        ({"init_lora_weights": "pissa"}, "field init_lora_weights is 'pissa'"),
        ({"peft_type": "IA3"}, "field peft_type is 'IA3'"),
        ({"peft_type": None}, "field peft_type is None"),
        ({"task_type": "TOKEN_CLS"}, "field task_type"),
        ({"r": 0}, "field r is 0"),
        ({"r": "3"}, "field r is '3'"),
        ({"lora_alpha": None}, "field lora_alpha is None"),
        ({"lora_dropout": 1.0}, "field lora_dropout is 1.0"),
        ({"rank_pattern": [3]}, r"field rank_pattern is \[3\]"),
        ({"rank_pattern": {"(": 3}}, "field rank_pattern: '\\('"),
        ({"rank_pattern": {"(.*)*x": 3}}, r"field rank_pattern: '\(\.\*\)\*x' is no pattern that is followed"),
        ({"rank_pattern": {"(a|a)*b": 3}}, "is no pattern that is followed; names"),
        ({"rank_pattern": {".*.*.*x": 3}}, "is no pattern that is followed; names"),
        ({"rank_pattern": {"[9-0]": 3}}, r"is no pattern: bad character range 9-0"),
        ({"r": 10**400}, "field r is 1000"),
        ({"r": float("nan")}, "field r is nan, expected a positive number up to 1,048,576"),
        ({"r": True}, "field r is True"),
        ({"lora_alpha": float("inf")}, "field lora_alpha is inf"),
        ({"alpha_pattern": {"up_proj": 7}}, "field alpha_pattern: blocks/.*alphas"),
        ({"alpha_pattern": {"layers.1.mlp.up_proj": 7}}, "layers.1.mlp.up_proj than for model.layers.0.mlp.up_proj"),
        ({"r": 4}, r"q_proj.lora_A.weight has shape \[3, 8\].*say \[4, 8\]"),
        (
            {"target_modules": ["q_proj", "up_proj", "down_proj"]},
            "0.mlp.down_proj.lora_A.weight is missing.*names down",
        ),
    ],
)
def test_what_a_config_says_that_cannot_be_loaded_is_refused_by_its_field(changes, says, saved, tmp_path):
    config, params, _, values, asked = saved
    write(tmp_path, values, {**asked, **changes})
    with pytest.raises(CheckpointError, match=says) as error:
        load_peft(tmp_path, config, params)
    assert str(error.value).startswith(str(tmp_path))


def q_proj(half, layer=0):
    return f"{PREFIX}model.layers.{layer}.self_attn.q_proj.lora_{half}.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.pop(q_proj("B")), f"tensor {re.escape(q_proj('B'))} is missing"),
        (lambda x: [x.pop(q_proj(half, 1)) for half in "AB"], f"tensor {re.escape(q_proj('A', 1))} is missing"),
        (
            lambda x: [x.pop(q_proj(half, i)) for half in "AB" for i in (0, 1)],
            "q_proj.lora_A.weight is missing.*names q",
        ),
        (lambda x: x.clear(), "lora_A.weight is missing"),
        (lambda x: x.update({q_proj("A"): np.zeros((3, 9), np.float32)}), r"q_proj.lora_A.weight has shape \[3, 9\]"),
        (lambda x: x.update({q_proj("A"): np.zeros((3, 8), np.int8)}), "q_proj.lora_A.weight is int8"),
        (
            lambda x: x.update({q_proj("A", 7): np.zeros((3, 8), np.float32)}),
            "layers.7.*a llama model with these sizes",
        ),
        (lambda x: x.update({f"{PREFIX}lm_head.lora_A.weight": np.zeros((3, 8), np.float32)}), "an output head"),
        (lambda x: x.update({f"{PREFIX}model.embed_tokens.lora_embedding_A": np.zeros(3, np.float32)}), "an embedding"),
        (lambda x: x.update({f"{PREFIX}model.embed_tokens.weight": np.zeros(3, np.float32)}), "trained whole"),
        (lambda x: x.update({q_proj("A").replace("lora_A.weight", "lora_magnitude_vector"): np.zeros(3)}), "DoRA"),
        (lambda x: x.update({f"{PREFIX}score.weight": np.zeros((2, 8), np.float32)}), r"\[2, 8\].*say \[1, 8\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, says, saved, tmp_path):
    config, params, _, values, asked = saved
    values = dict(values)
    change(values)
    write(tmp_path, values, asked)
    with pytest.raises(CheckpointError, match=says):
        load_peft(tmp_path, config, params)


def test_files_that_are_missing_or_damaged_are_refused(saved, tmp_path):
    config, params, _, values, asked = saved
    with pytest.raises(CheckpointError, match=r"adapter_config.json: no such file"):
        load_peft(tmp_path, config, params)
    write(tmp_path, values, asked)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: truncated"):
        load_peft(tmp_path, config, params)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: no such file"):
        load_peft(tmp_path, config, params)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(CheckpointError, match="a pickle"):
        load_peft(tmp_path, config, params)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="field peft_type is missing"):
        load_peft(tmp_path, config, params)


def test_an_adapter_goes_onto_a_model_without_one(saved, tmp_path):
    config, _, with_adapters, values, asked = saved
    write(tmp_path, values, asked)
    with pytest.raises(ValueError, match="has adapters already"):
        load_peft(tmp_path, dataclasses.replace(config, lora=LORA), with_adapters)


def test_saving_replaces_an_adapter_and_nothing_else(saved, tmp_path):
    config, params, with_adapters, values, asked = saved
    lora = dataclasses.replace(LORA, targets="query$|up$")
    adapted_config = dataclasses.replace(config, lora=lora)
    write(tmp_path / "adapter", {}, {})
    (tmp_path / "adapter" / "tokenizer.json").touch()
    save_peft(tmp_path / "adapter", adapted_config, with_adapters, base="someone/base")
    assert tensors(tmp_path / "adapter").keys() == values.keys()
    assert fields(tmp_path / "adapter") == asked
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]
    assert len(list((tmp_path / "adapter").iterdir())) == 2
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").touch()
    with pytest.raises(CheckpointError, match=r"is not an adapter \(it holds tokenizer.json\)"):
        save_peft(tmp_path / "tokenizer", adapted_config, with_adapters)
    (tmp_path / "adapter" / "diary.txt").touch()
    with pytest.raises(CheckpointError, match=r"diary.txt"):
        save_peft(tmp_path / "adapter", adapted_config, with_adapters)
    with pytest.raises(ValueError, match="no adapters"):
        save_peft(tmp_path / "other", config, params)
    with pytest.raises(ValueError, match="lack blocks/attention/query/lora_a"):
        save_peft(tmp_path / "other", adapted_config, params)
    wider = dataclasses.replace(config, lora=dataclasses.replace(lora, rank=4))
    with pytest.raises(ValueError, match=r"query/lora_a has shape \(2, 8, 3\), but the config says \(2, 8, 4\)"):
        save_peft(tmp_path / "other", wider, with_adapters)
    own, trunk = models.split(with_adapters)
    stacked = models.join(jax.tree.map(lambda x: jnp.stack([x] * 3), own), trunk)
    with pytest.raises(ValueError, match="3 models are stacked"):
        save_peft(tmp_path / "other", adapted_config, stacked)
    first = models.first_layers(config, 1)
    with pytest.raises(ValueError, match="uses 1 of its trunk's 2 blocks"):
        save_peft(tmp_path / "other", *models.add_adapters(first, params, LORA, jax.random.key(0)))
    assert not (tmp_path / "other").exists()


def test_a_folder_with_an_adapter_only_is_no_model(saved, tmp_path):
    _, _, _, values, asked = saved
    write(tmp_path, values, asked)
    with pytest.raises(CheckpointError, match="LoRA adapter without the model"):
        safetensors_source(tmp_path)
