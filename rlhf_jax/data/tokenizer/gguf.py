"""The tokenizer inside a GGUF file, as the files Hugging Face's tokenizers are read from.

GGUF holds a vocabulary, merges or scores, special tokens and a chat template, but names the way text is cut into words
only by a word (``tokenizer.ggml.pre``). What that word means is written here, after the tokenizers it was made for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.tokenizer.ends import KEY as ENDS_KEY
from rlhf_jax.data.tokenizer.gguf_pairs import check_kinds, read_pairs
from rlhf_jax.files import atomic_text

if TYPE_CHECKING:
    import tokenizers

# Kinds of tokens, as llama.cpp counts them.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
ENDS = ("eos", "eot", "eom")  # llama.cpp stops where a text, a turn or a message to a tool ends
SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


class Cut(NamedTuple):
    """How a byte-level tokenizer cuts text into the words that merges stay within."""

    regex: str = ""  # empty: GPT-2's
    digits: bool = False  # every digit is a word
    nfc: bool = False  # Unicode is composed first
    whole_words: bool = False  # a word that is a token is that token, whatever the merges give
    bos: bool = False  # the first token is bos, where the file does not say


GPT2 = Cut()
DIGITS = Cut(digits=True)
LLAMA3 = Cut("|".join([_CONTRACTIONS, _WORD, r"\p{N}{1,3}", _PUNCTUATION, _TAIL]), whole_words=True, bos=True)
QWEN2 = Cut("|".join([_CONTRACTIONS, _WORD, r"\p{N}", _PUNCTUATION, _TAIL]), nfc=True)
TEKKEN = Cut(
    "|".join(
        [
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
            r"\p{N}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            _TAIL,
        ]
    ),
    whole_words=True,
    bos=True,
)
CUTS = {
    **dict.fromkeys(("gpt-2", "gpt2", "default", "olmo", "mpt", "phi-2", "jais"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), LLAMA3._replace(whole_words=False, bos=False)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
    "tekken": TEKKEN,
}


def write_tokenizer(gguf_path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Write the tokenizer of a GGUF file as tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
        gguf_path: the file.
        folder: where the three files go; it must exist.

    Raises:
        DataError: if the file has no tokenizer, or one of a kind that is not known.
        FileNotFoundError: if there is no such file or folder.
    """
    pairs = read_pairs(os.fspath(gguf_path))
    backend, config = build(pairs, where=os.fspath(gguf_path))
    special = {name: config[name] for name in SPECIALS if config[name] is not None}
    files = {
        "tokenizer.json": backend.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False),
        "special_tokens_map.json": json.dumps(special, indent=2, ensure_ascii=False),
    }
    for name, text in files.items():
        with atomic_text(Path(folder) / name) as file:
            file.write(text + "\n")


def build(pairs: Mapping[str, Any], *, where: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Build the tokenizer that a GGUF file's key-value pairs describe.

    Args:
        pairs: keys such as ``tokenizer.ggml.tokens`` and their values.
        where: the file, for errors.

    Returns:
        The tokenizer, and the fields of tokenizer_config.json.

    Raises:
        DataError: if there is no tokenizer, one of a kind that is not known, or a value of another kind than its key.

    Example:
        >>> letters = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "ab"]}
        >>> tokenizer, _ = build({**letters, "tokenizer.ggml.merges": ["a b"]}, where="letters.gguf")
        >>> tokenizer.encode("aab").ids
        [0, 2]
    """
    import tokenizers

    check_kinds(pairs, where)
    kind, tokens = pairs.get("tokenizer.ggml.model"), pairs.get("tokenizer.ggml.tokens")
    if not kind or not tokens:
        raise DataError(f"{where}: expected a tokenizer (tokenizer.ggml.model and .tokens), found none")
    special = {name: _special(pairs, tokens, key, where) for name, key in SPECIALS.items()}
    if kind == "gpt2":
        backend, add_bos = _byte_level(pairs, tokens, where)
    elif kind == "llama":
        gemma = str(pairs.get("general.architecture", "")).startswith("gemma")
        backend, add_bos = _sentencepiece(pairs, tokens, special["unk_token"], gemma, where), True
    else:
        raise DataError(f"{where}: tokenizer.ggml.model {kind!r} is not known; known are gpt2 and llama")
    kinds = pairs.get("tokenizer.ggml.token_type") or [0] * len(tokens)
    if len(kinds) != len(tokens):
        raise DataError(f"{where}: expected {len(tokens)} tokenizer.ggml.token_type, found {len(kinds)}")
    whole = {CONTROL: set(special.values()) - {None}, USER_DEFINED: set()}
    for token, its_kind in zip(tokens, kinds, strict=True):
        if its_kind in whole:
            whole[its_kind].add(token)
    ids = {token: i for i, token in enumerate(tokens)}
    for its_kind, found in whole.items():
        backend.add_tokens(
            [
                tokenizers.AddedToken(token, special=its_kind == CONTROL, normalized=False)
                for token in sorted(
                    found - (whole[CONTROL] if its_kind == USER_DEFINED else set()), key=ids.__getitem__
                )
            ]
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": bool(pairs.get("tokenizer.ggml.add_bos_token", add_bos)),
        "add_eos_token": bool(pairs.get("tokenizer.ggml.add_eos_token", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": pairs.get(f"{pairs.get('general.architecture')}.context_length", 2048),
    }
    ends = [special["bos_token"]] * config["add_bos_token"], [special["eos_token"]] * config["add_eos_token"]
    if None in ends[0] + ends[1]:
        raise DataError(f"{where}: bos or eos is to be added to every text, and there is no such token")
    if any(ends):
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=[*ends[0], "$A", *ends[1]],
            pair=[*ends[0], "$A", *ends[1], *(f"{bos}:1" for bos in ends[0]), "$B:1", *(f"{eos}:1" for eos in ends[1])],
            special_tokens=[(token, ids[token]) for token in ends[0] + ends[1]],
        )
    if template := pairs.get("tokenizer.chat_template"):
        config["chat_template"] = template
    stops = [end for end in (_special(pairs, tokens, key, where) for key in ENDS) if end is not None]
    if len(set(stops)) > 1:
        config[ENDS_KEY] = list(dict.fromkeys(stops))
    return backend, config


def _byte_level(pairs: Mapping[str, Any], tokens: Sequence[str], where: str) -> tuple[tokenizers.Tokenizer, bool]:
    """Build BPE on bytes, and say whether texts begin with bos where the file does not."""
    import tokenizers
    from tokenizers import pre_tokenizers

    name, merges = pairs.get("tokenizer.ggml.pre", "gpt-2"), pairs.get("tokenizer.ggml.merges")
    if name not in CUTS:
        known = ", ".join(sorted(CUTS))
        raise DataError(f"{where}: tokenizer.ggml.pre {name!r} is not known; known are {known}")
    if merges is None:
        raise DataError(f"{where}: expected tokenizer.ggml.merges, found none")
    cut = CUTS[name]
    try:
        model = tokenizers.models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[(left, right) for left, _, right in (merge.partition(" ") for merge in merges)],
            ignore_merges=cut.whole_words,
        )
    except Exception as error:  # the Rust side raises bare Exception
        raise DataError(f"{where}: tokenizer.ggml.merges do not fit the tokens ({error})") from error
    backend = tokenizers.Tokenizer(model)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if cut.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if cut.regex:
        steps.append(pre_tokenizers.Split(tokenizers.Regex(cut.regex), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut.regex))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if cut.nfc:
        backend.normalizer = tokenizers.normalizers.NFC()
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend, cut.bos


def _sentencepiece(
    pairs: Mapping[str, Any], tokens: Sequence[str], unknown: str | None, gemma: bool, where: str
) -> tokenizers.Tokenizer:
    """Build BPE on characters, with bytes for those that are no tokens; scores say which pieces are joined first."""
    import tokenizers
    from tokenizers import decoders

    scores = pairs.get("tokenizer.ggml.scores")
    if gemma:
        # Its scores are not in the order of the merges, and its tokens of several spaces are stored as spaces.
        tokens = ["▁" * len(token) if token and not token.strip(" ") else token for token in tokens]
        scores = [-i for i in range(len(tokens))]
    if scores is None or len(scores) != len(tokens):
        raise DataError(f"{where}: expected {len(tokens)} tokenizer.ggml.scores, found {len(scores or ())}")
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocab, merges=_merges(vocab, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if pairs.get("tokenizer.ggml.add_space_prefix", not gemma):
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        undo.append(decoders.Strip(" ", left=1))
    else:
        backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(undo)
    return backend


def _merges(vocab: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """List every way to join two tokens to a third, the highest score of the third first.

    SentencePiece joins the neighbours whose sum has the highest score, so these are its rules as a list.
    """
    found = []
    for token, i in vocab.items():
        halves = ((token[:n], token[n:]) for n in range(1, len(token)))
        pairs = [(left, right) for left, right in halves if left in vocab and right in vocab]
        pairs.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        found += [(scores[i], *pair) for pair in pairs]
    found.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))
    return [(left, right) for _, left, right in found]


def _special(pairs: Mapping[str, Any], tokens: Sequence[str], key: str, where: str) -> str | None:
    i = pairs.get(f"tokenizer.ggml.{key}_token_id")
    if i is None:
        return None
    if not 0 <= i < len(tokens):
        raise DataError(f"{where}: tokenizer.ggml.{key}_token_id is {i}, of {len(tokens)} tokens")
    return tokens[i]
