"""The tokenizer inside a GGUF file: words are cut as its name says, special tokens stay whole, faults are named."""

import json

import pytest
from gguf_files import byte_letters, byte_level, sentencepiece, write

from rlhf_jax.data import DataError
from rlhf_jax.data.tokenizer.gguf import CUTS, build, write_tokenizer

MERGES = ("Ġ Ġ", "h e", "Ġ he", "1 2", "12 3", "123 4", "Ġ 1", "Ċ Ċ", "' s", "! !")


def pieces(backend, text):
    """Tokens as text, bytes shown by their letters."""
    return [backend.id_to_token(i) for i in backend.encode(text, add_special_tokens=False).ids]


def built(pre, **more):
    return build(byte_level(pre, MERGES, **more), where="m.gguf")[0]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "he 1234", "he|Ġ|1234"),  # one word, Ġ1234, and 12 is joined before Ġ1
        ("gpt-2", "he1234", "he|1234"),
        ("smollm", "he1234", "he|1|2|3|4"),
        ("smollm", "he  12", "he|ĠĠ|1|2"),  # two spaces before a digit are one word
        ("gpt-2", "he  he", "he|Ġ|Ġhe"),  # the last space belongs to the word
        ("llama-bpe", "1234", "123|4"),  # three digits at most
        ("llama-bpe", "!!\n\n", "!!|ĊĊ"),
        ("qwen2", "1234", "1|2|3|4"),
        ("qwen2", "he's", "he|'s"),
        ("gpt-2", "HE'S", "H|E|'|S"),
        ("tekken", "123", "1|2|3"),
    ],
)
def test_words_are_cut_as_the_pre_tokenizers_name_says(pre, text, expected):
    assert "|".join(pieces(built(pre), text)) == expected


def test_a_whole_word_that_is_a_token_needs_no_merges_in_llama_3():
    pairs = byte_level("llama-bpe", MERGES)
    tokens = [*pairs["tokenizer.ggml.tokens"], "xyz"]
    pairs |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [*pairs["tokenizer.ggml.token_type"], 1]}
    assert pieces(build(pairs, where="m.gguf")[0], "xyz") == ["xyz"]
    assert pieces(build({**pairs, "tokenizer.ggml.pre": "gpt-2"}, where="m.gguf")[0], "xyz") == ["x", "y", "z"]


def test_qwen_composes_unicode_first():
    assert pieces(built("qwen2"), "e\u0301") == pieces(built("qwen2"), "é")
    assert pieces(built("gpt-2"), "e\u0301") != pieces(built("gpt-2"), "é")


@pytest.mark.parametrize("pre", sorted(CUTS))
def test_any_text_comes_back_as_it_went_in(pre):
    text = "He's 12,345.6 €\r\n\n\t  x  7 日本 😀 ½ don't!!  "
    backend = built(pre)
    assert backend.decode(backend.encode(text, add_special_tokens=False).ids) == text


def test_control_tokens_stay_whole_and_are_special_and_users_tokens_are_not():
    pairs = byte_level("smollm", MERGES)
    tokens = [*pairs["tokenizer.ggml.tokens"], "<think>"]
    pairs |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [*pairs["tokenizer.ggml.token_type"], 4]}
    backend, _ = build(pairs, where="m.gguf")
    ids = backend.encode("<|im_start|>he<think><|im_end|>").ids
    assert ids == [0, tokens.index("he"), len(tokens) - 1, 1]
    assert backend.decode(ids) == "he<think>"
    assert backend.decode(ids, skip_special_tokens=False) == "<|im_start|>he<think><|im_end|>"
    assert backend.get_vocab_size() == len(tokens)


def test_every_id_is_that_of_the_file():
    pairs = byte_level("smollm", MERGES)
    backend, _ = build(pairs, where="m.gguf")
    assert [backend.id_to_token(i) for i in range(backend.get_vocab_size())] == pairs["tokenizer.ggml.tokens"]


def test_bos_and_eos_are_added_where_the_file_says_so():
    pairs = byte_level("gpt-2", MERGES, **{"ggml.add_bos_token": True, "ggml.add_eos_token": True})
    backend, config = build(pairs, where="m.gguf")
    he = backend.token_to_id("he")
    assert backend.encode("he").ids == [0, he, 1]
    assert backend.encode("he", "he").ids == [0, he, 1, 0, he, 1]
    assert backend.encode("he", add_special_tokens=False).ids == [he]
    assert (config["add_bos_token"], config["add_eos_token"]) == (True, True)
    assert built("gpt-2").encode("he").ids == [he]
    assert built("llama-bpe").encode("he").ids == [0, he]  # old files do not say, and their models want it


PIECES = {"▁": -1, "a": -2, "b": -3, "c": -4, "▁a": -10, "bc": -11, "ab": -12, "▁ab": -13, "▁▁": -14}


def test_sentencepiece_joins_the_best_scoring_neighbours_first():
    backend, config = build(sentencepiece(PIECES), where="m.gguf")
    # "▁abc": ▁a (-10) comes before bc (-11), which comes before ab (-12); then ▁a bc has no sum.
    assert pieces(backend, "abc") == ["▁a", "bc"]
    scores = {**PIECES, "ab": -9}  # now ab is first, and ▁ab is its sum with ▁
    assert pieces(build(sentencepiece(scores), where="m.gguf")[0], "abc") == ["▁ab", "c"]
    assert config["add_bos_token"] is True
    assert backend.encode("a").ids == [1, backend.token_to_id("▁a")]


def test_sentencepiece_spells_what_is_no_piece_in_bytes():
    backend, _ = build(sentencepiece(PIECES), where="m.gguf")
    assert pieces(backend, "a\né") == ["▁a", "<0x0A>", "<0xC3>", "<0xA9>"]
    for text in ("a\né", "a  b", "日本 😀", "abc abc"):
        assert backend.decode(backend.encode(text).ids) == text


def test_sentencepiece_begins_with_a_space_unless_the_file_says_not():
    without = sentencepiece(PIECES, **{"ggml.add_space_prefix": False})
    backend, _ = build(without, where="m.gguf")
    assert pieces(backend, "ab") == ["ab"]
    assert pieces(backend, " ab") == ["▁ab"]
    assert backend.decode(backend.encode(" ab").ids) == " ab"


def test_gemmas_spaces_are_tokens_and_its_merges_go_by_number():
    # Its scores say nothing: by them bc would be first. Its spaces are stored as spaces.
    stored = {"▁": 0, "a": 0, "b": 0, "c": 0, "ab": -20, "bc": -1, "  ": -1000}
    backend, _ = build({"general.architecture": "gemma2", **sentencepiece(stored)}, where="m.gguf")
    assert pieces(backend, "abc") == ["ab", "c"]
    assert pieces(backend, "a  b") == ["a", "▁▁", "b"]
    assert backend.decode(backend.encode("a  b ").ids) == "a  b "


def test_the_three_files_are_written(tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    pairs = byte_level("smollm", MERGES, chat_template=template)
    path = write(tmp_path / "m.gguf", "llama", {}, tokenizer=pairs)
    write_tokenizer(path, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": None,
        "pad_token": "<|im_end|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 64,
        "chat_template": template,
    }
    specials = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert specials == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    import tokenizers

    read = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert pieces(read, "he  12") == ["he", "ĠĠ", "1", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.pre": "nobodys"}, r"tokenizer.ggml.pre 'nobodys' is not known; known are .*smollm"),
        ({"tokenizer.ggml.model": "t5"}, r"tokenizer.ggml.model 't5' is not known; known are gpt2 and llama"),
        ({"tokenizer.ggml.tokens": None}, r"expected a tokenizer .* found none"),
        ({"tokenizer.ggml.merges": None}, r"expected tokenizer.ggml.merges, found none"),
        ({"tokenizer.ggml.eos_token_id": 9999}, r"tokenizer.ggml.eos_token_id is 9999, of 268 tokens"),
        ({"tokenizer.ggml.model": "llama"}, r"expected 268 tokenizer.ggml.scores, found 0"),
        ({"tokenizer.ggml.token_type": [1, 1]}, r"expected 268 tokenizer.ggml.token_type, found 2"),
        ({"tokenizer.ggml.model": 3}, r"tokenizer.ggml.model: expected text, found 3"),
        ({"tokenizer.ggml.tokens": [1, 2]}, r"tokenizer.ggml.tokens: expected a list of texts .*found \[1, 2\]"),
        ({"tokenizer.ggml.tokens": ["a" * 2000]}, r"expected a list of texts of at most 1024 characters"),
        ({"tokenizer.ggml.bos_token_id": "0"}, r"bos_token_id: expected a whole number, found '0'"),
        ({"tokenizer.ggml.eos_token_id": 1.0}, r"eos_token_id: expected a whole number, found 1.0"),
        ({"tokenizer.ggml.scores": [float("nan")]}, r"scores: expected a list of finite numbers, found \[nan\]"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, r"add_bos_token: expected true or false, found 'yes'"),
        ({"tokenizer.chat_template": ["{{ x }}"]}, r"tokenizer.chat_template: expected text"),
        ({"tokenizer.ggml.merges": ["q x"]}, r"tokenizer.ggml.merges do not fit the tokens .*qx"),
    ],
)
def test_what_cannot_be_used_is_named(change, message):
    pairs = {**byte_level("smollm", MERGES), **change}
    with pytest.raises(DataError, match=r"m.gguf: .*" + message):
        build(pairs, where="m.gguf")


def test_a_file_that_is_not_gguf_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PK" + bytes(50))
    with pytest.raises(DataError, match=r"m.gguf: not a GGUF file that can be read"):
        write_tokenizer(path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent.gguf"):
        write_tokenizer(tmp_path / "absent.gguf", tmp_path)
    assert len(byte_letters()) == len(set(byte_letters())) == 256
