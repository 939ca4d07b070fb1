"""Chat templates, their tokens and exported tokenizers against transformers."""

import json

import numpy as np
import pytest
from chat_families import FAMILIES, TALK, write_folder

from rlhf_jax.data import Message, Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def auto():
    """``AutoTokenizer``, or a skip that says how to get it."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[parity]'")
    return transformers.AutoTokenizer


@pytest.fixture(params=FAMILIES)
def both(auto, tmp_path, request):
    family = FAMILIES[request.param]
    write_folder(tmp_path, family)
    return family, Tokenizer.load(tmp_path), auto.from_pretrained(tmp_path)


def their_ids(tokenizer, messages, **options):
    return tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=True, return_dict=False, **options)


def test_rendering_and_tokens_are_those_of_transformers(both):
    family, ours, theirs = both
    as_dicts = [message._asdict() for message in family.chat]
    assert ours.chat.render(family.chat) == theirs.apply_chat_template(as_dicts, tokenize=False)
    assert ours.encode_dialogue(family.chat)[0].tolist() == their_ids(theirs, family.chat)
    prompt = family.chat[:-1]
    assert ours.encode_prompt(prompt).tolist() == their_ids(theirs, prompt, add_generation_prompt=True)
    first = (Message("user", TALK[0]),)
    assert ours.encode_prompt(TALK[0]).tolist() == their_ids(theirs, first, add_generation_prompt=True)


def test_random_chats_have_the_tokens_of_transformers(both):
    _, ours, theirs = both
    generator = np.random.default_rng(0)
    words = [
        "It",
        "is",
        "four",
        "film",
        "two.",
        "caf\u00e9",
        "12,345",
        "\U0001f3ac",
        "a\nb",
        "c\n\nd",
        "(x)",
        "I'm",
        "  y",
    ]
    for _ in range(20):
        turns = [" ".join(generator.choice(words, generator.integers(1, 9))).strip() for _ in range(4)]
        said = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))
        assert ours.encode_dialogue(said)[0].tolist() == their_ids(theirs, said)
        assert ours.encode_prompt(said[:3]).tolist() == their_ids(theirs, said[:3], add_generation_prompt=True)


def test_plain_prompts_are_those_of_transformers(both):
    _, ours, theirs = both
    for text in ("It is four.", " two", "caf\u00e9\n\nfilm"):
        assert ours.with_format("plain").encode_prompt(text).tolist() == theirs(text)["input_ids"]


def test_what_is_saved_is_what_transformers_loads(both, auto, tmp_path):
    family, ours, theirs = both
    ours.save_pretrained(tmp_path / "saved")
    saved = auto.from_pretrained(tmp_path / "saved")
    assert their_ids(saved, family.chat) == their_ids(theirs, family.chat)
    assert saved("It is four.")["input_ids"] == theirs("It is four.")["input_ids"]
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(saved, name) == getattr(theirs, name)
    assert Tokenizer.load(tmp_path / "saved").to_json() == ours.to_json()
    theirs.save_pretrained(tmp_path / "theirs")  # the layout of today: the template in a file of its own
    assert (tmp_path / "theirs" / "chat_template.jinja").exists()
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.encode_dialogue(family.chat)[0].tolist() == their_ids(theirs, family.chat)
    assert (again.eos_id, again.pad_id, again.bos_id) == (ours.eos_id, ours.pad_id, ours.bos_id)


def test_a_tokenizer_trained_here_loads_in_transformers(auto, tmp_path):
    ours = train_tokenizer(["a good film", "a bad film"] * 4, 280)
    ours.save_pretrained(tmp_path)
    theirs = auto.from_pretrained(tmp_path)
    assert theirs("a good film")["input_ids"] == ours.encode_prompt("a good film").tolist()
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    assert theirs.decode(ours.encode_response("good"), skip_special_tokens=True) == " good"
    assert Tokenizer.load(tmp_path).to_json() == ours.to_json()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["add_bos_token"] is True
