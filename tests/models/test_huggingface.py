"""Checkpoints without torch: round trips of every family, what is refused and how, where leaves go, and memory.

That the numbers are right is held against transformers in ``tests/parity/test_families_parity.py``.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.files import CheckpointError
from rlhf_jax.models import ModelConfig, RopeScaling, build
from rlhf_jax.models.huggingface import fingerprint, load, load_pretrained, save_pretrained
from rlhf_jax.models.huggingface.config import model_config
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.weights import TensorInfo, safetensors_source, write_safetensors

SIZES = {
    "vocab_size": 32,
    "d_model": 16,
    "n_layers": 3,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 6,
    "d_ff": 24,
    "max_length": 64,
}
SQUARE = SIZES | {"n_kv_heads": 4, "head_dim": 4}
GEMMA = {"norm_offset": 1.0, "norm_after": True, "embedding_scale": 4.0, "activation": "gelu_tanh"}
WINDOWED = {"sliding_window": 7, "local_layers": (True, False, True)}
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=32)
PLAIN = {"norm": "layer", "gated_mlp": False, "mlp_bias": True, "qkv_bias": True, "out_bias": True}

CONFIGS = {
    "llama": ModelConfig(**SIZES, rope_scaling=LLAMA3, rope_theta=5e5),
    "mistral": ModelConfig(**SIZES, family="mistral", sliding_window=7, tie_embeddings=False),
    "qwen2": ModelConfig(**SIZES, family="qwen2", qkv_bias=True, sliding_window=7, local_layers=(False, True, True)),
    "qwen3": ModelConfig(**SIZES, family="qwen3", qk_norm="head"),
    "olmo2": ModelConfig(
        **SIZES, family="olmo2", norm_before=False, norm_after=True, qk_norm="all", tie_embeddings=False
    ),
    "gemma2": ModelConfig(
        **SIZES, **GEMMA, **WINDOWED, family="gemma2", attention_softcap=50.0, logit_softcap=30.0, query_scale=0.5
    ),
    "gemma3_text": ModelConfig(
        **SIZES, **GEMMA, **WINDOWED, family="gemma3_text", qk_norm="head", rope_theta=1e6, local_rope_theta=1e4
    ),
    "gpt2": ModelConfig(**SQUARE, **PLAIN, family="gpt2", positions="learned", activation="gelu_tanh"),
    "gpt_neox": ModelConfig(
        **SQUARE, **PLAIN, family="gpt_neox", parallel_residual=True, rope_fraction=0.25, tie_embeddings=False
    ),
}


def random_params(config, dtype="float32", seed=0):
    """Every leaf different everywhere, so that no two can be taken for each other."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), shapes)


def assert_same(params, expected):
    """The same bits, and the same types."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    wanted = jax.tree_util.tree_flatten_with_path(expected)[0]
    assert [path for path, _ in found] == [path for path, _ in wanted]
    for (path, leaf), (_, other) in zip(found, wanted, strict=True):
        assert leaf.dtype == other.dtype, path
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), path


@pytest.fixture
def folder(tmp_path):
    """A small Llama checkpoint to break."""
    save_pretrained(tmp_path / "model", CONFIGS["llama"], random_params(CONFIGS["llama"]))
    return tmp_path / "model"


def edit(folder, **fields):
    file = folder / "config.json"
    known = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in known.items() if value != "gone"}))


def retell(folder, change):
    """Write the weights anew after ``change(tensors)``."""
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


# ---- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_comes_back_bit_for_bit(family, dtype, tmp_path):
    config = CONFIGS[family]
    params = random_params(config, dtype)
    save_pretrained(tmp_path / "model", config, params)
    read_config, read_params = load_pretrained(tmp_path / "model")
    assert read_config == config
    assert_same(read_params, params)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reward_model_comes_back_without_an_output_head(family, tmp_path):
    config = dataclasses.replace(CONFIGS[family], scalar_head=True)
    params = random_params(config)
    save_pretrained(tmp_path / "model", config, params, generation_config={"pad_token_id": 3})
    fields = json.loads((tmp_path / "model" / "config.json").read_text())
    assert fields["architectures"] == [FAMILIES[family].classifier]
    assert (fields["pad_token_id"], fields["id2label"]) == (3, {"0": "LABEL_0"})
    assert fields["problem_type"] == "regression"  # or vLLM's scores are sigmoids
    assert safetensors_source(tmp_path / "model").names()["score.weight"].shape == (1, 16)
    params.pop("unembedding", None)
    read_config, read_params = load_pretrained(tmp_path / "model")
    assert read_config == dataclasses.replace(config, tie_embeddings=True)
    assert_same(read_params, params)


def test_the_safetensors_package_reads_the_same_and_is_read(tmp_path):
    config = CONFIGS["llama"]
    params = random_params(config)
    save_pretrained(tmp_path / "model", config, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    up = np.asarray(params["blocks"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.up_proj.weight"], up[1].T)
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], params["embedding"])
    retell(tmp_path / "model", lambda tensors: None)
    assert_same(load_pretrained(tmp_path / "model")[1], params)


def test_fused_matrices_lie_as_the_families_have_them(tmp_path):
    # GPT-2: the columns of one matrix are all queries, then all keys, then all values. GPT-NeoX: the rows are the first
    # head's query, key and value, then the second's.
    for family, name in (
        ("gpt2", "transformer.h.2.attn.c_attn"),
        ("gpt_neox", "gpt_neox.layers.2.attention.query_key_value"),
    ):
        config = CONFIGS[family]
        params = random_params(config)
        save_pretrained(tmp_path / family, config, params)
        tensors = safetensors.numpy.load_file(tmp_path / family / "model.safetensors")
        kernels, biases = (
            [np.asarray(params["blocks"]["attention"][part][kind][2]) for part in ("query", "key", "value")]
            for kind in ("kernel", "bias")
        )
        if family == "gpt2":
            np.testing.assert_array_equal(tensors[f"{name}.weight"], np.concatenate(kernels, axis=1))
            np.testing.assert_array_equal(tensors[f"{name}.bias"], np.concatenate(biases))
            continue
        rows = [kernel[:, 4 * head : 4 * head + 4].T for head in range(4) for kernel in kernels]
        np.testing.assert_array_equal(tensors[f"{name}.weight"], np.concatenate(rows))
        parts = [bias[4 * head : 4 * head + 4] for head in range(4) for bias in biases]
        np.testing.assert_array_equal(tensors[f"{name}.bias"], np.concatenate(parts))


def test_large_weights_are_sharded_with_an_index(tmp_path):
    config = CONFIGS["qwen2"]
    params = random_params(config, "bfloat16")
    save_pretrained(tmp_path / "model", config, params, max_shard_bytes=4000)
    names = sorted(file.name for file in (tmp_path / "model").iterdir())
    shards = [name for name in names if name.startswith("model-")]
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert names == ["config.json", *shards, "model.safetensors.index.json"]
    assert all(len((tmp_path / "model" / shard).read_bytes()) < 6000 for shard in shards)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert_same(load_pretrained(tmp_path / "model")[1], params)


def test_large_leaves_take_the_other_way_and_come_back_bit_for_bit(tmp_path):
    # Above a MiB a leaf is moved in slabs; this one has a last slab that is shorter.
    config = dataclasses.replace(CONFIGS["gpt_neox"], vocab_size=20_001, d_ff=9_000)
    params = random_params(config)
    save_pretrained(tmp_path / "model", config, params)
    assert_same(load_pretrained(tmp_path / "model")[1], params)
    half = load_pretrained(tmp_path / "model", dtype="bfloat16")[1]
    assert_same(half, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params))


def test_weights_of_several_types_meet_in_one_that_holds_them(folder):
    def change(tensors):
        for name in ("model.layers.0.mlp.up_proj.weight", "model.norm.weight"):
            tensors[name] = tensors[name].astype(np.float16)

    retell(folder, change)
    params = load_pretrained(folder)[1]
    assert params["final_norm"]["scale"].dtype == "float16"
    assert params["blocks"]["mlp"]["up"]["kernel"].dtype == "float32"
    half = load_pretrained(folder, dtype="bfloat16")[1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}


def test_leaves_go_straight_to_their_shards(tmp_path):
    config = dataclasses.replace(CONFIGS["gpt_neox"], vocab_size=20_000, n_layers=2)
    params = random_params(config)
    save_pretrained(tmp_path / "model", config, params)
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def place(path, leaf):
        name = jax.tree_util.keystr(path)
        matrix = "kernel" in name or "embedding" in name
        cut = ("tensor", "fsdp") if matrix else ()  # layers too: a leaf may be cut anywhere
        return NamedSharding(mesh, PartitionSpec(*cut))

    shardings = lambda shapes: jax.tree_util.tree_map_with_path(place, shapes)  # noqa: E731
    read = load_pretrained(tmp_path / "model", shardings=shardings)[1]
    assert_same(read, params)
    assert read["embedding"].sharding.spec == PartitionSpec("tensor", "fsdp")
    assert read["embedding"].addressable_shards[0].data.shape == (10_000, 4)
    save_pretrained(tmp_path / "again", config, read)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


def test_loaded_weights_can_be_donated_and_placed_anywhere(folder):
    params = load_pretrained(folder)[1]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    elsewhere = jax.device_put(jnp.ones(16), NamedSharding(mesh, PartitionSpec("data")))
    # An array that was pinned to one device would not go with one that lies on eight.
    assert (params["final_norm"]["scale"] + elsewhere).shape == (16,)


# ---- config.json ----------------------------------------------------------------------------------------------------


def test_both_spellings_of_rotary_positions_are_read(folder):
    expected = load_pretrained(folder)[0]
    assert expected.rope_scaling == LLAMA3
    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    edit(folder, rope_scaling="gone", rope_theta="gone", rope_parameters={**scaling, "rope_theta": 5e5})
    assert load_pretrained(folder)[0] == expected
    edit(folder, rope_parameters="gone", rope_theta=5e5, rope_scaling={**scaling, "type": "llama3"})
    assert load_pretrained(folder)[0] == expected
    edit(folder, rope_scaling={"type": "linear", "factor": 2})
    assert load_pretrained(folder)[0].rope_scaling == RopeScaling(kind="linear", factor=2.0)


@pytest.mark.parametrize("length", [7, 26])
def test_windows_follow_from_each_family_s_own_rule(length):
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"num_hidden_layers": length, "num_key_value_heads": 2}
    gemma2 = model_config({**sizes, "model_type": "gemma2"}, "x")
    assert gemma2.windowed == tuple(layer % 2 == 0 for layer in range(length))
    gemma3 = model_config({**sizes, "model_type": "gemma3_text"}, "x")
    assert gemma3.windowed == tuple(layer % 6 != 5 for layer in range(length))
    qwen = {**sizes, "model_type": "qwen2", "max_window_layers": 5}
    assert model_config(qwen, "x").sliding_window == 0
    assert model_config({**qwen, "use_sliding_window": True}, "x").windowed == (False,) * 5 + (True,) * (length - 5)
    assert all(model_config({**sizes, "model_type": "mistral"}, "x").windowed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not supported; supported are llama, mistral"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "m.py"}}, "code of its own (auto_map), which is never run"),
        ({"model_type": "gemma3"}, "save its language model alone"),
        ({"model_type": ["llama"]}, "model_type ['llama'] is not supported"),
        ({"architectures": 5}, "architectures 5 is not supported"),
        ({"architectures": ["LlamaForSequenceClassification"], "id2label": 1}, "id2label 1 is not supported"),
        ({"architectures": ["LlamaForTokenClassification"]}, "supported: ['LlamaForCausalLM'] or"),
        ({"hidden_size": "gone"}, "field 'hidden_size' is missing"),
        ({"hidden_size": "16"}, "hidden_size should be of type int, found '16'"),
        ({"num_hidden_layers": 3.0}, "num_hidden_layers should be of type int, found 3.0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings should be of type bool, found 1"),
        ({"num_attention_heads": 3}, "n_heads 3 is not a multiple of n_kv_heads 2"),
        ({"num_attention_heads": 3, "head_dim": None}, "supported: divisors of the width 16"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000 is not supported; supported: up to 4096"),
        ({"vocab_size": 2**31}, "vocab_size 2147483648 is not supported; supported: finite numbers, and sizes below"),
        ({"rms_norm_eps": 10**400}, "supported: finite numbers"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan is not supported; supported: finite numbers"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 is not supported; supported: 1 or more"),
        ({"hidden_act": ["silu"]}, "hidden_act ['silu'] is not supported"),
        ({"hidden_act": "relu2"}, "hidden_act 'relu2' is not supported; supported: silu, swish"),
        ({"sliding_window": 4096}, "sliding_window 4096 is not supported; supported: None"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear' lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "factor should be of type float, found 'x'"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1]}}, "rope_scaling's mrope_section [1]"),
        ({"rope_scaling": {"full_attention": {}}}, "one rotary embedding for all layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; supported: 1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_the_network_cannot_do_is_refused_by_field(folder, fields, message):
    edit(folder, **fields)
    with pytest.raises(CheckpointError) as refused:
        load_pretrained(folder)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not supported"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention True is not supported"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "supported: 3 entries, each 'full_attention' or"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "['chunked_attention', 'chunked_attention'"),
        ("gemma2", {"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern 0 is not supported"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar 0 is not supported; supported: numbers above"),
        ("gemma2", {"sliding_window": -1}, "sliding_window -1 is not supported; supported: null, or 1 or more"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention True is not supported"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not supported"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters of windowed layers",
        ),
        ("gemma3_text", {"rope_parameters": {"full_attention": [1]}}, "supported: an object for each kind of layer"),
        ("qwen2", {"layer_types": None, "max_window_layers": "x"}, "max_window_layers should be of type int, found"),
        ("qwen2", {"use_sliding_window": False}, "'full_attention' alone where there is no sliding_window"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "'sliding_attention' alone where there is"),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_field(family, fields, message, tmp_path):
    save_pretrained(tmp_path / "model", CONFIGS[family], random_params(CONFIGS[family]))
    edit(tmp_path / "model", **fields)
    with pytest.raises(CheckpointError) as refused:
        load_pretrained(tmp_path / "model")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("family", "changes", "field"),
    [
        ("llama", {"qk_norm": "head"}, "qk_norm = 'head'"),
        ("llama", {"sliding_window": 7}, "sliding_window = 7"),
        ("llama", {"qkv_bias": True}, "qkv_bias = True"),
        ("mistral", {"local_layers": (True, False, True)}, "local_layers = (True, False, True)"),
        ("gemma2", {"query_scale": 0.3}, "query_scale = 0.3"),
        ("gemma2", {"embedding_scale": 1.0}, "embedding_scale = 1.0"),
        ("gpt2", {"query_scale": 0.1}, "query_scale = 0.1"),
        ("gpt_neox", {"qk_norm": "head"}, "qk_norm = 'head'"),
    ],
)
def test_a_network_that_a_family_cannot_say_is_not_saved_as_another(family, changes, field, tmp_path):
    config = dataclasses.replace(CONFIGS[family], **changes)
    with pytest.raises(ValueError, match="cannot say") as refused:
        save_pretrained(tmp_path / "model", config, random_params(config))
    assert field in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_fields_that_say_the_same_otherwise_are_no_reason_to_refuse(tmp_path):
    # A base of its own for windowed layers that is everybody's, a scale that is the usual one, an unused window.
    same = {"local_rope_theta": 5e5, "query_scale": 6**-0.5, "local_layers": (True, True, False)}
    config = dataclasses.replace(CONFIGS["llama"], **same)
    save_pretrained(tmp_path / "model", config, random_params(config))
    assert load_pretrained(tmp_path / "model")[0] == CONFIGS["llama"]


@pytest.mark.parametrize("labels", [{"num_labels": 2}, {"id2label": {"0": "a", "1": "b"}}, {}])
def test_a_classifier_of_several_classes_is_no_reward_model(folder, labels):
    edit(folder, architectures=["LlamaForSequenceClassification"], **labels)
    with pytest.raises(CheckpointError, match="num_labels 2 is not supported; supported: 1"):
        load_pretrained(folder)


# ---- files of weights -----------------------------------------------------------------------------------------------


def broken(change):
    def apply(folder):
        retell(folder, change)

    return apply


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def header_only(folder):
    (folder / "model.safetensors").write_bytes((10_000).to_bytes(8, "little") + b"{")


def longer(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def header(text):
    def apply(folder):
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0" * 8)

    return apply


def rename(name):
    def apply(folder):
        (folder / "model.safetensors").rename(folder / name)

    return apply


NORM = "model.norm.weight"
BROKEN = {
    "missing": (broken(lambda t: t.pop(NORM)), f"tensor {NORM} is missing; a llama model"),
    "many missing": (
        broken(lambda t: [t.pop(name) for name in list(t) if "mlp" in name or NORM in name]),
        "and 5 more are missing",
    ),
    "extra": (broken(lambda t: t.update({"model.extra.weight": t[NORM]})), "tensor model.extra.weight is unknown"),
    "a value head": (broken(lambda t: t.update({"v_head.weight": t[NORM]})), "tensor v_head.weight is unknown"),
    "shape": (
        broken(lambda t: t.update({NORM: np.zeros(17, np.float32)})),
        f"tensor {NORM} has shape [17], but config.json says [16]",
    ),
    "quantised": (broken(lambda t: t.update({NORM: np.zeros(16, np.int8)})), f"tensor {NORM} is int8, only float32"),
    "untied": (
        broken(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1})),
        "tensor lm_head.weight is not the embedding, although config.json says that they are tied",
    ),
    "truncated": (truncate, "model.safetensors: truncated: tensor model."),
    "header cut off": (header_only, "not a safetensors file, or truncated: its header is not whole"),
    "longer": (longer, "model.safetensors: 4 bytes after the last tensor"),
    "no json": (header("{x"), "the safetensors header is malformed"),
    "type": (header('{"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 8]}}'), "dtype 'F4' is not one of BOOL"),
    "no entry": (header('{"a": null}'), "tensor a should have dtype, shape and two data_offsets, found None"),
    "nested": (header("[" * 100_000), "the safetensors header is malformed"),
    "offsets": (
        header('{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'),
        "data_offsets (0, 8) do not hold shape [3] of F32",
    ),
    "an axis too long": (
        header('{"a": {"dtype": "F32", "shape": [0, 1' + 30 * "0" + '], "data_offsets": [0, 0]}}'),
        "do not hold shape [0, 1000",
    ),
    "many axes": (
        header('{"a": {"dtype": "F32", "shape": [' + "1, " * 80 + '1], "data_offsets": [0, 4]}}'),
        "do not hold shape [1, 1, ",
    ),
    "gap": (
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'),
        "tensor a starts at byte",
    ),
    "twice": (
        header('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}'),
        "a name stands in it twice",
    ),
    "pickle": (rename("pytorch_model.bin"), "only pytorch_model.bin is there, a pickle, which can run code"),
    "nothing": (lambda folder: (folder / "model.safetensors").unlink(), "no weights: expected model.safetensors"),
    "no index": (rename("model-00001-of-00002.safetensors"), "neither model.safetensors nor model.safetensors.index"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    "config no json": (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
    "config a list": (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object, found list"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_checkpoint_is_refused_by_name_before_anything_is_allocated(fault, folder, monkeypatch):
    change, message = BROKEN[fault]
    change(folder)
    if fault != "untied":  # which has to be read to be seen
        monkeypatch.setattr(load, "_fill", lambda *_: pytest.fail("parameters were allocated"))
    with pytest.raises(CheckpointError) as refused:
        load_pretrained(folder)
    assert message in str(refused.value)
    assert str(folder) in str(refused.value)


def drop_shard(folder):
    next(folder.glob("model-00002*")).unlink()


def twice(folder):
    # The third shard also holds what is in the second.
    second, third = (next(folder.glob(f"model-0000{n}*")) for n in (2, 3))
    safetensors.numpy.save_file(safetensors.numpy.load_file(second) | safetensors.numpy.load_file(third), third)


def empty_shard(folder):
    shard = next(folder.glob("model-00002*"))
    tensors = safetensors.numpy.load_file(shard)
    tensors.pop(sorted(tensors)[0])
    safetensors.numpy.save_file(tensors, shard)


def unlisted(folder):
    shard = next(folder.glob("model-00002*"))
    safetensors.numpy.save_file({**safetensors.numpy.load_file(shard), "x": np.zeros(1)}, shard)


def outside(folder):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../model.safetensors"
    file.write_text(json.dumps(index))


def index(text):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_shard, "shard model-00002-of-"),
        (twice, "is also in model-00002-of-"),
        (empty_shard, "is listed as in model-00002"),
        (unlisted, "tensor x is here, but model.safetensors.index.json does not list it"),
        (outside, "shard: '../model.safetensors' has a part '..'"),
        (index('{"weight_map": {}}'), "field 'weight_map' should map"),
        (index('{"weight_map": {"x": 5}}'), "field 'weight_map' should map"),
    ],
    ids=["missing shard", "twice", "not in it", "not listed", "outside", "empty index", "no name"],
)
def test_shards_that_do_not_fit_their_index_are_refused_by_name(change, message, tmp_path):
    config = CONFIGS["llama"]
    save_pretrained(tmp_path / "model", config, random_params(config), max_shard_bytes=8000)
    change(tmp_path / "model")
    with pytest.raises(CheckpointError) as refused:
        load_pretrained(tmp_path / "model")
    assert message in str(refused.value)


def test_known_leftovers_of_old_checkpoints_are_accepted(folder, tmp_path):
    expected = load_pretrained(folder)[1]

    def leftovers(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)

    retell(folder, leftovers)
    assert_same(load_pretrained(folder)[1], expected)
    # Of a shared tensor safetensors' save_model keeps the name that comes first in the alphabet.
    retell(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    assert_same(load_pretrained(folder)[1], expected)

    config = CONFIGS["gpt2"]
    params = random_params(config)
    save_pretrained(tmp_path / "gpt2", config, params)

    def as_first_released(tensors):  # without the prefix, and with the causal mask as a buffer
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)

    retell(tmp_path / "gpt2", as_first_released)
    assert_same(load_pretrained(tmp_path / "gpt2")[1], params)


def test_a_path_that_is_no_checkpoint_or_a_type_that_is_none_is_an_error(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a file; give the folder that holds config\.json"):
        load_pretrained(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no such folder or \.gguf file; download the checkpoint first"):
        load_pretrained(tmp_path / "org" / "name")
    with pytest.raises(ValueError, match="dtype is one of float32, bfloat16, float16 or None, found 'int8'"):
        load_pretrained(tmp_path, dtype="int8")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="a LoRA adapter without the model it belongs to"):
        load_pretrained(tmp_path)


def test_a_writer_that_breaks_its_word_is_an_error(tmp_path):
    names = {"x": TensorInfo((2,), "float32")}
    with pytest.raises(ValueError, match="was announced"):
        write_safetensors(tmp_path / "x", names, lambda name: np.zeros(3, np.float32))


# ---- saving ---------------------------------------------------------------------------------------------------------


class WordList:
    """As much of a tokenizer as saving needs."""

    pad_id, bos_id, eos_id = 5, None, 2

    def save_pretrained(self, folder):
        (Path(folder) / "tokenizer.json").write_text("{}")


def test_tokenizer_and_generation_config_go_along(tmp_path):
    config = CONFIGS["llama"]
    generation = {"do_sample": True, "bos_token_id": 1, "eos_token_id": [2, 3]}
    save_pretrained(
        tmp_path / "model", config, random_params(config), tokenizer=WordList(), generation_config=generation
    )
    fields = json.loads((tmp_path / "model" / "config.json").read_text())
    assert [fields[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 5]
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == generation
    assert (tmp_path / "model" / "tokenizer.json").exists()


def test_a_reward_model_without_a_padding_id_is_saved_with_a_warning(tmp_path):
    config = dataclasses.replace(CONFIGS["llama"], scalar_head=True)
    with pytest.warns(UserWarning, match="a reward model without pad_token_id"):
        save_pretrained(tmp_path / "model", config, random_params(config))


def test_saving_replaces_a_checkpoint_and_nothing_else(folder, tmp_path):
    config = CONFIGS["llama"]
    params = random_params(config, seed=1)
    save_pretrained(folder, config, params)
    assert_same(load_pretrained(folder)[1], params)
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", config, params)

    (folder / "notes.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint \(it holds notes.md\)"):
        save_pretrained(folder, config, params)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        save_pretrained(tmp_path / "papers", config, params)
    with pytest.raises(CheckpointError, match="is a file"):
        save_pretrained(folder / "config.json", config, params)


def test_a_save_that_fails_leaves_what_was_there(folder, tmp_path):
    class Failing(WordList):
        def save_pretrained(self, folder):
            raise OSError("disk full")

    before = fingerprint(folder)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(folder, CONFIGS["llama"], random_params(CONFIGS["llama"], seed=1), tokenizer=Failing())
    assert fingerprint(folder) == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["blocks"]["mlp"]["up"].update(lora_a=jnp.zeros((3, 16, 2))), "models.merge first"),
        (lambda p: p["blocks"]["mlp"]["up"].update(kernel_scale=jnp.zeros((3, 24))), "models.merge first"),
        (lambda p: p.pop("embedding"), "params lack embedding"),
        (lambda p: p.update(extra=jnp.zeros(1)), "params have an unknown extra"),
        (
            lambda p: p.update(embedding=jnp.zeros((31, 16))),
            "embedding has shape (31, 16), but the config says (32, 16)",
        ),
        (lambda p: p.update(embedding=jnp.zeros((32, 16), int)), "embedding is int32, expected one of float32"),
    ],
    ids=["adapter", "8 bits", "lacking", "unknown", "shape", "type"],
)
def test_weights_that_do_not_fit_the_config_are_refused(change, message, tmp_path):
    config = CONFIGS["llama"]
    params = random_params(config)
    change(params)
    with pytest.raises(ValueError) as refused:
        save_pretrained(tmp_path / "model", config, params)
    assert message in str(refused.value)


def test_members_of_an_ensemble_are_saved_one_at_a_time(tmp_path):
    config = dataclasses.replace(CONFIGS["llama"], scalar_head=True)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), random_params(config))
    with pytest.raises(ValueError, match="2 reward models are stacked here; save them one at a time"):
        save_pretrained(tmp_path / "model", config, params)


# ---- which weights, and how much memory -----------------------------------------------------------------------------


def test_the_fingerprint_changes_with_weights_and_config_and_not_with_the_place(folder, tmp_path):
    first = fingerprint(folder)
    assert len(first) == 64
    folder.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == first
    edit(tmp_path / "moved", rope_theta=1.0)
    second = fingerprint(tmp_path / "moved")
    retell(tmp_path / "moved", lambda tensors: tensors.update({NORM: tensors[NORM] + 1}))
    third = fingerprint(tmp_path / "moved")
    assert len({first, second, third}) == 3
    one = fingerprint(tmp_path / "moved" / "model.safetensors")  # any single file of weights
    assert one not in (first, second, third)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        fingerprint(tmp_path / "gone")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel's high-water mark is needed")
def test_memory_above_the_parameters_is_one_tensor(tmp_path):
    program = Path(__file__).with_name("peak_memory.py")
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    # What the allocator keeps and the programs that are compiled take some 50 MiB, whatever the size of the model.
    slack = 96
    assert found["largest"] + slack < found["params"]  # or else a second copy of everything would not be seen
    for name in ("load", "load on a mesh", "load in bfloat16"):
        assert found[name] <= found["largest"] + slack, name
    for name in ("save", "save from a mesh"):
        assert found[name] <= found["largest"] + 1.5 * slack, name


def test_what_stands_beside_the_weights_is_kept_from_the_source(tmp_path):
    params = build(ModelConfig(**SIZES)).init(jax.random.key(0))
    save_pretrained(
        tmp_path / "a", ModelConfig(**SIZES), params, generation_config={"eos_token_id": [3, 4], "top_p": 0.9}
    )
    (tmp_path / "a" / "tokenizer.json").write_text('{"model": "words"}')
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    config, read = load_pretrained(tmp_path / "a")
    save_pretrained(tmp_path / "b", config, read, source=tmp_path / "a")
    files = {file.name for file in (tmp_path / "b").iterdir()}
    assert files == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == {"eos_token_id": [3, 4], "top_p": 0.9}
    assert json.loads((tmp_path / "b" / "config.json").read_text())["eos_token_id"] == [3, 4]
    assert (tmp_path / "b" / "tokenizer.json").read_text() == '{"model": "words"}'
    save_pretrained(tmp_path / "c", config, read, source=tmp_path / "a", generation_config={"eos_token_id": 5})
    assert json.loads((tmp_path / "c" / "generation_config.json").read_text()) == {"eos_token_id": 5}
