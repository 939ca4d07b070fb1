"""What ``rlhf export`` writes, loaded by transformers: the same scores and the same likelihoods of the same texts."""

import jax
import numpy as np
import pytest
from chat_families import FAMILIES, write_folder

from rlhf_jax import models
from rlhf_jax.data import Tokenizer, train_tokenizer
from rlhf_jax.runs.export import export
from rlhf_jax.stages import Policy, Scorer

PROMPTS = ["the good film", "two", "be brief please"]
RESPONSES = ["is bad", "and three is", "It is four. Thank you!"]
SIZES = {"d_model": 16, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "d_ff": 24, "max_length": 64}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="needs torch: pip install -e '.[parity]'")
    return pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[parity]'")


@pytest.fixture(params=["trained here", *FAMILIES])
def tokenizer(request, tmp_path):
    if request.param == "trained here":
        return train_tokenizer([*PROMPTS, *RESPONSES] * 5, 280)
    write_folder(tmp_path / "tokenizer", FAMILIES[request.param])
    return Tokenizer.load(tmp_path / "tokenizer")


def exported(monkeypatch, tmp_path, stage, config, params, tokenizer):
    """The folder, as if the stage of a run had left this model."""
    role = "reward" if stage == "reward" else "policy"
    (tmp_path / "run" / "params" / stage).mkdir(parents=True)
    monkeypatch.setattr("rlhf_jax.runs.export.load_stage", lambda *_: ({role: params}, config, tokenizer))
    return export(tmp_path / "run", tmp_path / "model")


def adapted(config):
    """A model with adapters that do something."""
    lora = models.LoRAConfig(rank=2)
    params = models.build(config).init(jax.random.key(0))
    config, params = models.add_adapters(config, params, lora, jax.random.key(1))
    return config, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def test_a_reward_model_scores_the_same_texts_the_same(transformers, tokenizer, tmp_path, monkeypatch):
    """Several at once, padded: the last token of a response may be the one that the tokenizer pads with."""
    import torch

    config, params = adapted(models.ModelConfig(vocab_size=tokenizer.vocab_size, scalar_head=True, **SIZES))
    folder = exported(monkeypatch, tmp_path, "reward", config, params, tokenizer)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        np.concatenate([tokenizer.encode_prompt(p), tokenizer.encode_response(r)])
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    batch = auto.pad({"input_ids": [t.tolist() for t in texts]}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        found = theirs(**batch).logits[:, 0].numpy()
    want = Scorer(config, {"reward": params}, tokenizer)(PROMPTS, RESPONSES)
    assert np.ptp(want) > 1e-3
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_policy_gives_its_samples_the_same_likelihood(transformers, tokenizer, tmp_path, monkeypatch):
    import torch

    config, params = adapted(models.ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES))
    folder = exported(monkeypatch, tmp_path, "sft", config, params, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    row = next(Policy(config, params, tokenizer, "sft").sample([PROMPTS[0]], seed=2))
    prompt = tokenizer.encode_prompt(PROMPTS[0])
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([[*prompt.tolist(), *row["tokens"]]])).logits[0]
    logprobs = torch.log_softmax(logits, -1).numpy()
    total = sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(row["tokens"]))
    assert total == pytest.approx(row["logprob"], abs=1e-4)
