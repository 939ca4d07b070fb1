"""Adapters against the ``peft`` package: what it saves and we load, what we save and it loads, the same logits.

Transformers builds small models with random weights and peft puts adapters on them; nothing is downloaded. Logits are
compared in float32 on batches that are padded on the left and on the right, where there are real tokens.
"""

import dataclasses
import os
from importlib.metadata import PackageNotFoundError, version

import jax
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.models import LoRAConfig
from rlhf_jax.models.peft import load_peft, save_peft

# Of the range of the logits. The largest that was measured is 6e-6.
TOLERANCE = 1e-5

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NEOX = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}

# What transformers calls the config, its fields, and modules to adapt: some, and all.
FAMILIES = {
    "llama": ("Llama", SIZES, ["q_proj", "v_proj"]),
    "mistral": ("Mistral", {**SIZES, "sliding_window": 5}, ["o_proj"]),
    "qwen2": ("Qwen2", SIZES, ["k_proj", "down_proj"]),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 12}, ["q_proj", "o_proj"]),
    "olmo2": ("Olmo2", SIZES, ["gate_proj", "up_proj"]),
    "gemma2": ("Gemma2", {**SIZES, "head_dim": 12, "sliding_window": 5}, ["q_proj", "o_proj"]),
    "gemma3": ("Gemma3Text", {**SIZES, "head_dim": 12, "sliding_window": 5}, ["v_proj"]),
    "gpt2": ("GPT2", GPT2, ["c_attn"]),
    "neox": ("GPTNeoX", NEOX, ["query_key_value", "dense_4h_to_h"]),
}
ALL = LoRAConfig().targets
# Some of what one matrix holds there, and none of it.
PARTS = {"some": "attention/(query|value)$", "none": "mlp/|attention/out$"}
OURS = [(case, ALL) for case in FAMILIES] + [(case, parts) for case in ("gpt2", "neox") for parts in PARTS.values()]
THEIRS = [(case, "all-linear") for case in FAMILIES] + [(case, FAMILIES[case][2]) for case in ("llama", "gpt2", "neox")]


@pytest.fixture(scope="module")
def peft():
    """PEFT and transformers, offline, or a skip that says how to get them."""
    for package in ("torch", "transformers", "peft"):
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: pip install -e '.[parity]'")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import peft
    import transformers

    transformers.logging.set_verbosity_error()
    return peft


def torch_model(case, classifier=False):
    """A random model of transformers; of one case always the same."""
    import torch
    import transformers

    kind, fields, _ = FAMILIES[case]
    config = getattr(transformers, f"{kind}Config")(**fields, **({"num_labels": 1} if classifier else {}))
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager").eval()
    randomise(model.named_parameters(), 0.15)
    return model


def randomise(named, size):
    import torch

    with torch.no_grad():
        for _, tensor in named:
            tensor.copy_(tensor + torch.randn_like(tensor) * size)


@pytest.fixture(scope="module")
def base(peft, tmp_path_factory):
    """A case's model in a folder, and as we load it: ``base(case) -> (config, params)``."""

    def base(case, classifier=False):
        folder = tmp_path_factory.mktemp("checkpoint") / "base"
        torch_model(case, classifier).save_pretrained(folder)
        return models.load_pretrained(folder)

    return base


def padded():
    """Tokens and mask [4, 12], padded on the left, on the right, on both sides, and not at all."""
    tokens = np.random.default_rng(0).integers(1, 96, (4, 12))
    columns = np.arange(12)
    mask = np.stack([columns >= 3, columns < 8, (columns >= 2) & (columns < 10), columns >= 0])
    return np.where(mask, tokens, 0), mask


def theirs(model):
    """Logits [B, S, V], or scores [B], in float32."""
    import torch

    tokens, mask = padded()
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        output = model.eval()(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(mask).long(),
            position_ids=torch.tensor(positions),
        )
    return output.logits.float().numpy()


def ours(config, params):
    tokens, mask = padded()
    with jax.default_matmul_precision("highest"):
        if not config.scalar_head:
            return np.asarray(models.logits(config, params, tokens, mask))
        model = models.build(config)
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        hidden = model.apply(params, tokens, positions, mask.astype(np.int32))
        return np.asarray(model.scores(params, hidden, last))[:, None]


def agree(found, expected, plain, request):
    """The same numbers, and not because the adapter does nothing."""
    mask = padded()[1] if found.ndim == 3 else slice(None)
    found, expected, plain = found[mask], expected[mask], plain[mask]
    size = np.ptp(expected)
    off = np.abs(found - expected).max() / size
    print(f"{request.node.name}: off by {off:.1e} of their range {size:.2f}")
    assert np.abs(expected - plain).max() > 0.02 * size, "the adapter changes nothing"
    assert off < TOLERANCE


def adapted_by_peft(peft, case, targets, folder, classifier=False, **changes):
    """PEFT's adapters on a case's model, saved; returns the adapted model."""
    import torch

    task = "SEQ_CLS" if classifier else "CAUSAL_LM"
    settings = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, "target_modules": targets, **changes}
    model = peft.get_peft_model(torch_model(case, classifier), peft.LoraConfig(task_type=task, **settings))
    torch.manual_seed(1)
    randomise(((name, x) for name, x in model.named_parameters() if "lora_" in name), 0.3)
    if classifier:
        randomise(((name, x) for name, x in model.named_parameters() if "modules_to_save" in name), 0.3)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("case", "targets"), THEIRS)
def test_their_adapters_give_their_logits(case, targets, peft, base, tmp_path, request):
    model = adapted_by_peft(peft, case, targets, tmp_path / "adapter")
    config, params = base(case)
    found = load_peft(tmp_path / "adapter", config, params)
    agree(ours(*found), theirs(model), ours(config, params), request)
    if targets == ["c_attn"]:
        a = found[1]["blocks"]["attention"]
        np.testing.assert_array_equal(a["query"]["lora_a"], a["value"]["lora_a"])  # one matrix there
        assert found[0].lora.targets == "^(blocks/attention/query|blocks/attention/key|blocks/attention/value)$"


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_their_rank_stabilised_adapters_in_half_precision_give_their_logits(case, peft, base, tmp_path, request):
    import torch
    from safetensors.torch import load_file, save_file

    adapted_by_peft(peft, case, "all-linear", tmp_path / "adapter", use_rslora=True)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    half = {name: x.to(torch.bfloat16) for name, x in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    model = peft.PeftModel.from_pretrained(torch_model(case), tmp_path / "adapter")
    config, params = base(case)
    found = load_peft(tmp_path / "adapter", config, params)
    assert found[0].lora.alpha == 6 * 4**0.5
    agree(ours(*found), theirs(model), ours(config, params), request)


@pytest.mark.parametrize("case", ["llama", "gpt2", "neox", "gemma2"])
def test_their_reward_adapters_give_their_scores(case, peft, base, tmp_path, request):
    model = adapted_by_peft(peft, case, "all-linear", tmp_path / "adapter", classifier=True)
    config, params = base(case, classifier=True)
    agree(ours(*load_peft(tmp_path / "adapter", config, params)), theirs(model), ours(config, params), request)


def adapted_by_us(config, params, targets):
    """Adapters that are not zero, of rank 3: no power of two."""
    config, params = models.add_adapters(
        config, params, LoRAConfig(rank=3, alpha=5.0, targets=targets), jax.random.key(0)
    )
    own, trunk = models.split(params)
    leaves, structure = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return config, models.join(jax.tree.unflatten(structure, noisy), trunk)


@pytest.mark.parametrize(("case", "targets"), OURS)
def test_our_adapters_give_our_logits_there_and_come_back_bit_for_bit(case, targets, peft, base, tmp_path, request):
    plain_config, plain = base(case)
    config, params = adapted_by_us(plain_config, plain, targets)
    save_peft(tmp_path / "adapter", config, params, base="base")
    model = peft.PeftModel.from_pretrained(torch_model(case), tmp_path / "adapter")
    without = ours(plain_config, plain)
    agree(theirs(model), ours(config, params), without, request)
    agree(ours(*models.merge(config, params)), theirs(model.merge_and_unload()), without, request)

    again_config, again = load_peft(tmp_path / "adapter", plain_config, plain)
    assert dataclasses.replace(again_config.lora, targets="") == dataclasses.replace(config.lora, targets="")
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("case", ["llama", "gpt2", "neox", "gemma2"])
def test_our_reward_adapters_give_our_scores_there(case, peft, base, tmp_path, request):
    plain_config, plain = base(case, classifier=True)
    config, params = adapted_by_us(plain_config, plain, ALL)
    save_peft(tmp_path / "adapter", config, params)
    model = peft.PeftModel.from_pretrained(torch_model(case, classifier=True), tmp_path / "adapter")
    agree(theirs(model), ours(config, params), ours(plain_config, plain), request)


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_peft_goes_on_training_what_we_saved(case, peft, base, tmp_path):
    """Its gradients reach every adapter, so what comes back has moved everywhere."""
    import torch

    config, params = adapted_by_us(*base(case), ALL)
    save_peft(tmp_path / "adapter", config, params)
    model = peft.PeftModel.from_pretrained(torch_model(case), tmp_path / "adapter", is_trainable=True)
    tokens = torch.tensor(padded()[0][3:])
    rate = torch.optim.SGD([x for x in model.parameters() if x.requires_grad], lr=0.1)
    model(input_ids=tokens, labels=tokens).loss.backward()
    rate.step()
    model.save_pretrained(tmp_path / "trained")
    # A fused matrix's B is no longer made of blocks, so its three parts have three times the rank of the others.
    if case == "gpt2":
        with pytest.raises(models.CheckpointError, match=r"rank_pattern: .*query .*ranks 9 and 3"):
            load_peft(tmp_path / "trained", *base(case))
        return
    _, moved = load_peft(tmp_path / "trained", *base(case))
    own, before = models.split(moved)[0], models.split(params)[0]
    for path, x in jax.tree_util.tree_leaves_with_path(own):
        old = dict(jax.tree_util.tree_leaves_with_path(before))[path]
        assert np.abs(x - old).max() > 0, path
