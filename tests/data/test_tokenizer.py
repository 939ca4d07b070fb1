import os
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.data import DataError, Tokenizer, train_tokenizer

TEXTS = [f"the {a} film is {b} and so is the {a} book" for a in ("good", "bad", "long") for b in ("fine", "dull")] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize(
    "text",
    ["plain", "  two  spaces ", "café 漢字 🎬👩‍👩‍👧", "tab\tnew\nline\r\n", "\x00\x7f\u2028", "<eos><pad> <bos>", ""],
)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_response(tokenizer.encode_response(text)) == text
    assert not np.isin(ids, [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id]).any()


def test_prompt_and_response_carry_their_special_tokens(tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.encode_prompt("good film").tolist() == [1, *tokenizer.encode("good film").tolist()]
    assert tokenizer.encode_response("good film").tolist() == [*tokenizer.encode(" good film").tolist(), 2]
    joined = np.concatenate([tokenizer.encode_prompt("the film"), tokenizer.encode_response("is good"), [0, 0]])
    assert tokenizer.decode(joined) == "the film is good"


def test_words_after_a_space_are_learned(tokenizer):
    assert len(tokenizer.encode_response("good")) == 2
    assert 259 < tokenizer.vocab_size <= 300  # these few texts have no more to merge


def test_half_a_character_decodes(tokenizer):
    ids = tokenizer.encode("é")
    assert len(ids) == 2
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_training_is_the_same_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "here.json")
    there = str(tmp_path / "there.json")
    code = f"from rlhf_jax.data import train_tokenizer; train_tokenizer({TEXTS!r}, 300).save({there!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert (tmp_path / "here.json").read_bytes() == (tmp_path / "there.json").read_bytes()


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = "a <eos> good film"
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    assert loaded.decode(loaded.encode(text)) == text
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"broken\.json: not a tokenizer"):
        Tokenizer.load(path)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size=258: expected at least 259"):
        train_tokenizer(["a"], 258)
