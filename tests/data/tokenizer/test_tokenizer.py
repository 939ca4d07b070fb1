import json
import os
import subprocess
import sys

import numpy as np
import pytest
from chat_families import CHATML, FAMILIES, IM, TALK, Family, backend, chat, write_folder

from rlhf_jax.data import DataError, Message, Tokenizer, prompt_text, train_tokenizer

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


PLAIN = Family("", IM[:1], {"eos_token": IM[0]}, (), "")


def pretrained(folder, family=FAMILIES["chatml"], **config):
    """The tokenizer of a folder; ``None`` takes a field out of its config."""
    write_folder(folder, family)
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
    return Tokenizer.load(folder)


def test_a_pretrained_tokenizer_has_its_own_special_tokens(tmp_path):
    tokenizer = pretrained(tmp_path)
    ids = {text: tokenizer._backend.token_to_id(text) for text in IM}
    assert tokenizer.format == "chat"
    assert (tokenizer.pad_id, tokenizer.bos_id) == (ids["<|endoftext|>"], ids["<|im_start|>"])
    assert tokenizer.eos_id == ids["<|im_end|>"]
    assert tokenizer.vocab_size == max(tokenizer._backend.get_vocab().values()) + 1
    assert tokenizer.encode_response("It is.")[-1] == tokenizer.eos_id


def test_without_a_padding_token_padding_is_the_end(tmp_path):
    tokenizer = pretrained(tmp_path, PLAIN, chat_template=None)
    assert (tokenizer.format, tokenizer.chat, tokenizer.bos_id) == ("plain", None, None)
    assert tokenizer.pad_id == tokenizer.eos_id == tokenizer._backend.token_to_id(IM[0])
    assert tokenizer.encode_prompt("").tolist() == [tokenizer.eos_id]  # a response needs a token before it
    assert tokenizer.encode_prompt("two").tolist() == tokenizer.encode("two").tolist()


def test_the_format_decides_what_ends_a_response(tmp_path):
    chats = pretrained(tmp_path, eos_token="<|endoftext|>")
    plain = chats.with_format("plain")
    assert (chats.format, plain.format) == ("chat", "plain")
    assert [t._backend.id_to_token(t.eos_id) for t in (chats, plain)] == ["<|im_end|>", "<|endoftext|>"]
    assert plain.encode_response("It is.").tolist() == [*plain.encode(" It is.").tolist(), plain.eos_id]
    assert plain.decode_response(plain.encode_response("It is.")) == "It is."
    again = plain.with_format("chat")
    np.testing.assert_array_equal(again.encode_prompt("two"), chats.encode_prompt("two"))
    assert again.to_json() == chats.to_json() != plain.to_json()


def test_a_format_that_cannot_be_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="format='chat': this tokenizer has no chat template; put one beside it"):
        tokenizer.with_format("chat")
    with pytest.raises(ValueError, match="format='html': expected one of plain, chat"):
        tokenizer.with_format("html")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("format", ["plain", "chat"])
def test_a_saved_tokenizer_is_the_same(tmp_path, name, format):
    family = FAMILIES[name]
    write_folder(tmp_path / "model", family)
    tokenizer = Tokenizer.load(tmp_path / "model", format=format)
    (tmp_path / "run").mkdir()
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    tokenizer.save_pretrained(tmp_path / "exported")
    for path in ("run", "run/tokenizer.json", "exported", "exported/tokenizer.json"):
        loaded = Tokenizer.load(tmp_path / path)
        assert loaded.to_json() == tokenizer.to_json()
        assert loaded.format == format
        assert [loaded.pad_id, loaded.bos_id, loaded.eos_id] == [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id]
        for ours, theirs in zip(
            loaded.encode_dialogue(family.chat), tokenizer.encode_dialogue(family.chat), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert (tmp_path / "run" / "tokenizer.json").read_text(encoding="utf-8") == tokenizer.to_json()


def test_another_template_is_another_tokenizer(tmp_path):
    one = pretrained(tmp_path / "one")
    two = pretrained(tmp_path / "two", chat_template=CHATML.replace("helpful", "brief"))
    assert one.to_json() != two.to_json()


def test_the_exported_tokenizer_of_a_run_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.to_json() == tokenizer.to_json()
    np.testing.assert_array_equal(loaded.encode_prompt("the film"), tokenizer.encode_prompt("the film"))


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "gemma", "llama3"])
def test_plain_text_comes_back_from_every_kind(tmp_path, kind):
    family = FAMILIES["mistral"]._replace(kind=kind)
    tokenizer = pretrained(tmp_path, family).with_format("plain")
    for text in ("It is four.", "  two  spaces", "caf\u00e9 \u6f22 \U0001f3ac", "line\nline", "</s><s>"):
        response = tokenizer.encode_response(text)
        assert tokenizer.decode_response(response) == text
        assert (response == tokenizer.eos_id).sum() == 1
        assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


def test_the_config_says_whether_text_begins_with_a_token(tmp_path):
    llama = FAMILIES["llama3"]
    by_post_processor = pretrained(tmp_path / "a", llama).with_format("plain")
    assert by_post_processor.encode_prompt("two")[0] == by_post_processor.bos_id
    never = pretrained(tmp_path / "b", llama, add_bos_token=False).with_format("plain")
    assert never.encode_prompt("two")[0] != never.bos_id
    assert never.encode_prompt("").tolist() == [never.bos_id]
    always = pretrained(tmp_path / "c", FAMILIES["tulu"], add_bos_token=True).with_format("plain")
    assert always.encode_prompt("two")[0] == always.bos_id


def test_a_chat_in_plain_text_reads_as_in_hh(tmp_path, tokenizer):
    said = chat(*TALK, system="You are brief.")
    text = (
        "You are brief.\n\nHuman: What is two and two?\n\nAssistant: It is four."
        "\n\nHuman: And three and three?\n\nAssistant:"
    )
    for made in (tokenizer, pretrained(tmp_path, FAMILIES["mistral"]).with_format("plain")):
        prompt = made.encode_prompt(said[:-1])
        assert made.decode(prompt) == prompt_text(said[:-1]) == text
        tokens, mask = made.encode_dialogue(said)
        np.testing.assert_array_equal(tokens, np.concatenate([prompt, made.encode_response("It is six.")]))
        first = len(made.encode_prompt(said[:2]))
        assert np.flatnonzero(mask).tolist() == [
            *range(first, first + len(made.encode_response("It is four."))),
            *range(len(prompt), len(tokens)),
        ]
        assert (tokens[mask] == made.eos_id).sum() == 2
    assert prompt_text("as it is") == "as it is"
    assert tokenizer.decode(tokenizer.encode_prompt((Message("user", "Hi."),))) == "\n\nHuman: Hi.\n\nAssistant:"


def test_special_tokens_are_found_wherever_a_folder_says_them(tmp_path):
    tokenizer = pretrained(tmp_path / "a", eos_token={"content": "<|endoftext|>"}, pad_token=None)
    assert tokenizer.with_format("plain").eos_id == tokenizer.pad_id == tokenizer._backend.token_to_id("<|endoftext|>")
    write_folder(tmp_path / "b", FAMILIES["chatml"])
    (tmp_path / "b" / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer.json: nothing says what ends a text: put tokenizer_config.json"):
        Tokenizer.load(tmp_path / "b")
    (tmp_path / "b" / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_id, 3]}))
    (tmp_path / "b" / "chat_template.jinja").write_text(CHATML)
    again = Tokenizer.load(tmp_path / "b")
    assert (again.format, again.eos_id, again.pad_id) == ("chat", tokenizer.eos_id, tokenizer.eos_id)


def test_what_ends_a_text_is_special_whatever_the_file_says(tmp_path):
    write_folder(tmp_path, PLAIN)
    made = backend(())
    made.add_tokens(list(PLAIN.specials))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(PLAIN.config))
    response = Tokenizer.load(tmp_path).encode_response("two<|endoftext|>")
    assert (response == made.token_to_id("<|endoftext|>")).tolist() == [False] * (len(response) - 1) + [True]
    assert Tokenizer.load(tmp_path).decode_response(response) == "two<|endoftext|>"


def test_of_several_templates_the_default_one_is_taken(tmp_path):
    several = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": CHATML}]
    assert pretrained(tmp_path / "a", chat_template=several).chat.source == CHATML
    with pytest.raises(DataError, match=r"tokenizer_config.json: chat_template: none is named 'default'"):
        pretrained(tmp_path / "b", chat_template=several[:1])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", "{", r"tokenizer_config.json: expected JSON \("),
        ("tokenizer_config.json", "[]", r"tokenizer_config.json: expected a JSON object, found a list"),
        ("tokenizer_config.json", '{"eos_token": "<none>"}', r"the special token '<none>' is not in the vocabulary"),
        ("chat_template.jinja", "{% for", r"tokenizer.json: chat template: it does not render"),
    ],
)
def test_a_broken_file_beside_a_tokenizer_is_named(tmp_path, file, content, message):
    write_folder(tmp_path, FAMILIES["chatml"])
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_says_how_to_write_one(tmp_path):
    with pytest.raises(DataError, match=r"it has no tokenizer.json; write one with transformers: AutoTokenizer"):
        Tokenizer.load(tmp_path)


def test_loading_does_not_change_ids(tmp_path):
    raw = backend(IM)
    tokenizer = pretrained(tmp_path)
    assert tokenizer._backend.get_vocab() == raw.get_vocab()


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_apart_ends_nothing_and_changes_no_ids(tmp_path, tokenizer, name):
    assert tokenizer.with_padding_apart() is tokenizer  # it has a padding token of its own
    write_folder(tmp_path / "model", FAMILIES[name])
    loaded = Tokenizer.load(tmp_path / "model")
    apart = loaded.with_padding_apart()
    assert apart.pad_id not in (apart.eos_id, apart.with_format("plain").eos_id)
    np.testing.assert_array_equal(apart.encode_prompt("good film"), loaded.encode_prompt("good film"))
    apart.save_pretrained(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").pad_id == apart.pad_id


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "gemma", "llama3", "qwen"])
def test_the_bytes_of_tokens_are_those_of_the_text(tmp_path, kind):
    """However a text is cut into tokens, and whatever stands before them."""
    tokenizer = pretrained(tmp_path, FAMILIES["mistral"]._replace(kind=kind)).with_format("plain")
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size
    for text in ("It is four.", "  two  spaces", "caf\u00e9 \u6f22 \U0001f3ac", "line\n\nline", "\n", "a\tb"):
        written = [tokenizer.token_bytes[i] for i in tokenizer.encode_response(text)[:-1]]
        assert b"".join(written).decode() == " " + text
    whole = [i for i, text in enumerate(tokenizer.token_bytes) if text.isascii()]
    drawn = np.random.default_rng(0).choice(whole, 200)
    shown = tokenizer.decode([*tokenizer.encode("a"), *drawn])
    special = {tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id, tokenizer._backend.token_to_id("<unk>")}
    assert shown == "a" + b"".join(tokenizer.token_bytes[i] for i in drawn if i not in special).decode()
    assert tokenizer.token_bytes[tokenizer.eos_id] == b"</s>"
    assert {bytes([n]) for n in range(256)} & set(tokenizer.token_bytes) >= {b"\n", b"\xc3", b"\xff", b"a"}


def test_a_response_is_shown_up_to_its_stop_string(tokenizer):
    ids = tokenizer.encode_response("one.\nTwo### three.")
    assert tokenizer.decode_response(ids, ["###", "\n"]) == "one."
    assert tokenizer.decode_response(ids, ["###"]) == "one.\nTwo"
    assert tokenizer.decode_response(ids, ["?"]) == "one.\nTwo### three."
    assert (
        tokenizer.decode_response(ids, [" one"]) == ""
    )  # the space that joins it to its prompt is part of what it wrote
