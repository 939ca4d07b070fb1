"""Checkpoints of every family against transformers: what we load, what it makes of what we save, and its configs.

Transformers builds small models with random weights and saves them; nothing is downloaded. Its logits and ours are
compared in float32 on batches that are padded on the left and on the right, where there are real tokens.
"""

import dataclasses
import json
import os
from importlib.metadata import PackageNotFoundError, version

import jax
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.models.huggingface import load_pretrained, save_pretrained
from rlhf_jax.models.huggingface.config import ONLY
from rlhf_jax.models.huggingface.families import FAMILIES

# Of the range of the logits. The largest that was measured is 3e-6.
TOLERANCE = 1e-5

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
WIDER = {**SIZES, "head_dim": 12}  # heads that are not the width divided by their number
NEOX = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

# What transformers calls the config, its fields, and what the network must have come out as.
CASES = {
    "llama": ("Llama", SIZES, {"tie_embeddings": False}),
    "llama tied": ("Llama", {**WIDER, "tie_word_embeddings": True}, {"tie_embeddings": True, "head_dim": 12}),
    "llama3 scaling": ("Llama", {**SIZES, "rope_parameters": LLAMA3}, {"rope_theta": 500.0}),
    "llama linear scaling": ("Llama", {**SIZES, "rope_parameters": LINEAR}, {"rope_theta": 1000.0}),
    "llama biases": ("Llama", {**SIZES, "attention_bias": True, "mlp_bias": True}, {"out_bias": True}),
    "llama gelu": ("Llama", {**SIZES, "hidden_act": "gelu"}, {"activation": "gelu"}),
    "mistral": ("Mistral", {**SIZES, "sliding_window": None}, {"sliding_window": 0}),
    "mistral window": ("Mistral", {**WIDER, "sliding_window": 5}, {"sliding_window": 5, "local_layers": ()}),
    "qwen2": ("Qwen2", SIZES, {"qkv_bias": True, "sliding_window": 0}),
    "qwen2 window": (
        "Qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        {"local_layers": (False, True, True)},
    ),
    "qwen3": ("Qwen3", {**WIDER, "tie_word_embeddings": True}, {"qk_norm": "head"}),
    "qwen3 layer types": (
        "Qwen3",
        {**WIDER, "use_sliding_window": True, "sliding_window": 5, "layer_types": LAYERS, "attention_bias": True},
        {"local_layers": (True, False, True), "out_bias": True},
    ),
    "olmo2": ("Olmo2", SIZES, {"norm_before": False, "qk_norm": "all"}),
    "gemma2": (
        "Gemma2",
        {**WIDER, "sliding_window": 5, "query_pre_attn_scalar": 20},
        {"attention_softcap": 50.0, "logit_softcap": 30.0, "local_layers": (True, False, True)},
    ),
    "gemma2 hard caps": (
        "Gemma2",
        {**WIDER, "sliding_window": 5, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.5},
        {"attention_softcap": 0.5, "logit_softcap": 0.5},
    ),
    "gemma3": (
        "Gemma3Text",
        {**WIDER, "sliding_window": 5, "layer_types": LAYERS},
        {"rope_theta": 1e6, "local_rope_theta": 1e4, "norm_offset": 1.0},
    ),
    "gemma3 scaled": (
        "Gemma3Text",
        {**WIDER, "sliding_window": 5, "layer_types": LAYERS, "rope_parameters": "full attention alone"},
        {"rope_theta": 1000.0, "local_rope_theta": 77.0},
    ),
    "gpt2": ("GPT2", GPT2, {"positions": "learned", "activation": "gelu_tanh"}),
    "gpt2 unscaled": (
        "GPT2",
        {**GPT2, "scale_attn_weights": False, "n_inner": 40, "n_embd": 36},
        {"query_scale": 1.0, "d_ff": 40, "head_dim": 9},
    ),
    "neox": ("GPTNeoX", NEOX, {"parallel_residual": True, "rope_fraction": 0.25}),
    "neox in sequence": (
        "GPTNeoX",
        {**NEOX, "use_parallel_residual": False, "rotary_pct": 0.4, "attention_bias": False, "hidden_act": "silu"},
        {"parallel_residual": False, "rotary_width": 3, "qkv_bias": False},
    ),
}
CASES["gemma3 scaled"][1]["rope_parameters"] = {
    "full_attention": LINEAR,
    "sliding_attention": {"rope_type": "default", "rope_theta": 77.0},
}
REWARD_MODELS = ["llama tied", "mistral window", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3", "gpt2", "neox"]


@pytest.fixture(scope="module")
def transformers():
    """Transformers, offline, or a skip that says how to get it."""
    for package in ("torch", "transformers"):
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: pip install -e '.[parity]'")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


@pytest.fixture(scope="module")
def base(transformers, tmp_path_factory):
    """Saves the random checkpoint of a case: ``base(case) -> folder``; with ``classifier`` a reward model."""
    import torch

    def base(case, classifier=False, **save):
        kind, fields, _ = CASES[case]
        config = getattr(transformers, f"{kind}Config")(**fields, **({"num_labels": 1} if classifier else {}))
        config.tie_word_embeddings = fields.get("tie_word_embeddings", config.tie_word_embeddings)
        auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
        torch.manual_seed(0)
        model = auto.from_config(config)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                # Large enough for attention to be sharp and for every bias and norm to matter.
                tensor.copy_(tensor + torch.randn_like(tensor) * (0.3 if "embed" in name or tensor.ndim == 1 else 0.15))
        folder = tmp_path_factory.mktemp("checkpoint") / "base"
        model.save_pretrained(folder, **save)
        return folder

    return base


def padded():
    """Tokens and mask [4, 12], padded on the left, on the right, on both sides, and not at all."""
    tokens = np.random.default_rng(0).integers(1, 96, (4, 12))
    columns = np.arange(12)
    mask = np.stack([columns >= 3, columns < 8, (columns >= 2) & (columns < 10), columns >= 0])
    return np.where(mask, tokens, 0), mask


def theirs(transformers, folder, classifier=False):
    """Transformers' logits [B, S, V], or scores [B], in float32."""
    import torch

    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    model, info = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    tokens, mask = padded()
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        output = model.eval()(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            position_ids=torch.tensor(positions),
        )
    return output.logits.numpy()[..., 0] if classifier else output.logits.numpy()


def ours(config, params):
    with jax.default_matmul_precision("highest"):
        return np.asarray(models.logits(config, params, *padded()))


def scores(config, params):
    tokens, mask = padded()
    model = models.build(config)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    with jax.default_matmul_precision("highest"):
        hidden = model.apply(params, tokens, positions, mask.astype(np.int32))
        return np.asarray(model.scores(params, hidden, last))


def agree(found, expected, request, what):
    mask = padded()[1] if found.ndim > 1 else slice(None)
    found, expected = found[mask], expected[mask]
    off = np.abs(found - expected).max() / np.ptp(expected)
    print(f"{request.node.name}: {what} off by {off:.1e} of their range {np.ptp(expected):.2f}")
    assert off < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_before_and_after_saving(case, transformers, base, tmp_path, request):
    folder = base(case)
    expected = theirs(transformers, folder)
    config, params = load_pretrained(folder)
    assert {name: getattr(config, name) for name in CASES[case][2]} == CASES[case][2]
    agree(ours(config, params), expected, request, "logits")

    save_pretrained(tmp_path / "ours", config, params, max_shard_bytes=20_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists()
    np.testing.assert_array_equal(theirs(transformers, tmp_path / "ours"), expected)
    again = load_pretrained(tmp_path / "ours")[0]
    assert again == config


@pytest.mark.parametrize("case", REWARD_MODELS)
def test_reward_models_agree_before_and_after_saving(case, transformers, base, tmp_path, request):
    folder = base(case, classifier=True)
    expected = theirs(transformers, folder, classifier=True)
    config, params = load_pretrained(folder)
    assert config.scalar_head
    agree(scores(config, params), expected, request, "scores")

    save_pretrained(tmp_path / "ours", config, params, generation_config={"pad_token_id": 0})
    np.testing.assert_array_equal(theirs(transformers, tmp_path / "ours", classifier=True), expected)


def test_their_shards_and_their_bfloat16_come_back_bit_for_bit(transformers, base, tmp_path):
    import torch

    folder = base("llama", max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    save_pretrained(tmp_path / "ours", *load_pretrained(tmp_path / "half"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


# Fields of their configs that change nothing about a forward pass: training, generation, and what tensors already say.
HARMLESS = {"initializer_range", "use_cache", "pretraining_tp", "classifier_dropout", "is_decoder"}
HARMLESS |= {
    "attention_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "reorder_and_upcast_attn",
}
HARMLESS |= {"pad_token_id", "bos_token_id", "eos_token_id", "model_type"}
HARMLESS |= {f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")}
ELSEWHERE = {"rope_parameters", "layer_types", "max_window_layers", "use_sliding_window", "sliding_window"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_field_of_their_config_is_read_or_refused_or_changes_nothing(family, transformers):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[family.name]
    common = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    own = {field.name for field in dataclasses.fields(theirs)} - common
    known = {*family.keys.values(), *family.only, *family.defaults, *ONLY, *HARMLESS, *ELSEWHERE}
    assert own - known == set()
    defaults = {name: getattr(theirs(), name) for name in own & set(family.defaults)}
    lengths = {
        family.keys["max_length"],
        "sliding_window",
        "head_dim",
        "num_key_value_heads",
    }  # they follow from others
    assert {name: value for name, value in defaults.items() if name not in lengths} == {
        name: family.defaults[name] for name in defaults if name not in lengths
    }


def test_configs_of_older_transformers_say_the_same(transformers, base):
    folder = base("gemma3 scaled")
    config = load_pretrained(folder)[0]
    fields = json.loads((folder / "config.json").read_text())
    assert fields.pop("rope_parameters")
    fields |= {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_local_base_freq": 77.0}
    (folder / "config.json").write_text(json.dumps(fields))
    assert load_pretrained(folder)[0] == config
