"""A tokenizer's files may be anybody's: what they say is read, or refused by the name of the file."""

import json

import chat_families
import pytest

from rlhf_jax.data import DataError, Tokenizer


@pytest.fixture
def folder(tmp_path):
    chat_families.write_folder(tmp_path, chat_families.FAMILIES["chatml"])
    return tmp_path


def change(file, how):
    fields = json.loads(file.read_text())
    how(fields)
    file.write_text(json.dumps(fields))


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda f: f["added_tokens"][0].update(id=2**31), "it has the number 2147483648; ids are below 4,194,304"),
        (lambda f: f["model"]["vocab"].update(x=2**32 - 1), "it has the number 4294967295; ids are below"),
        (lambda f: f["model"].update(type="Nobodys"), "not a tokenizer that can be used"),
        (lambda f: f.update(model=None), "not a tokenizer that can be used"),
        (lambda f: f.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}), "not a tokenizer that can be"),
        (lambda f: f.update(rlhf_jax={"tokens": {}, "adds_bos": False}), "the tokenizer has no eos_token"),
        (lambda f: f.update(rlhf_jax={"tokens": 3, "adds_bos": False}), "tokens of the tokenizer is 3"),
        (lambda f: f.update(rlhf_jax={"more": 3}), "not a tokenizer that can be used"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(how, says, folder):
    """An id of 2^31 made the package ask for gigabytes, and end the process where there were none."""
    change(folder / "tokenizer.json", how)
    with pytest.raises(DataError, match=says) as refused:
        Tokenizer.load(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda f: f.update(rlhf_jax_format="poem"), "format of the tokenizer is 'poem'"),
        (lambda f: f.update(rlhf_jax_date=3), "date of the tokenizer is 3"),
        (lambda f: f.update(chat_template=[{"name": 3}, 4]), "none is named 'default'"),
        (lambda f: f.update(chat_template={"a": 1}), "chat_template: expected text"),
    ],
)
def test_what_stands_beside_it_is_checked(how, says, folder):
    change(folder / "tokenizer_config.json", how)
    with pytest.raises(DataError, match=says):
        Tokenizer.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"\xff{}", b"[" * 100_000, b"[]", b"null", b""])
def test_what_is_no_json_object_is_named(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        Tokenizer.load(folder)


def test_a_template_that_is_no_utf8_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"chat_template\.jinja: expected UTF-8"):
        Tokenizer.load(folder)


def test_a_pattern_that_takes_for_ever_is_given_up(folder):
    """The package stops looking and panics, which is no Exception: it went through every reader."""
    change(folder / "tokenizer.json", lambda fields: fields.update(pre_tokenizer=SLOW))
    tokenizer = Tokenizer.load(folder, format="plain")
    with pytest.raises(DataError, match=r"tokenizer: not a tokenizer that can be used .*retry-limit"):
        tokenizer.encode("a" * 40 + "b")


def test_texts_are_neither_cut_nor_filled_up(folder):
    """Whatever the file asks for: lengths are the stages' business, and a length of 10^12 is nobody's."""
    whole = Tokenizer.load(folder, format="plain").encode("It is four.").tolist()
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    change(folder / "tokenizer.json", lambda fields: fields.update(padding=padding, truncation=cut))
    assert Tokenizer.load(folder, format="plain").encode("It is four.").tolist() == whole
