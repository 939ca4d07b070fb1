"""What stands beside a pretrained tokenizer's vocabulary: its special tokens by name, its chat template, its format."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.tokenizer.chat_template import ChatTemplate
from rlhf_jax.data.tokenizer.ends import FILES, KEY, STOPS_KEY, ends_beside, stops_beside
from rlhf_jax.files import atomic_text

if TYPE_CHECKING:
    import tokenizers

FORMATS = ("plain", "chat")


class SpecialTokens(NamedTuple):
    """What a tokenizer is besides its vocabulary."""

    tokens: Mapping[str, str]  # by the names that templates use: bos_token, eos_token, pad_token, ...
    adds_bos: bool  # whether text begins with bos_token
    template: str | None = None  # the chat template, in Jinja
    format: str = "plain"  # one of FORMATS
    date: str = ""  # what the template is told; empty where it does not ask
    ends: tuple[str, ...] = ()  # tokens that a checkpoint says end a response; eos_token and the template's do anyway
    stops: tuple[str, ...] = ()  # texts that do, whichever tokens write them


PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIALS = (PAD, BOS, EOS)  # the first tokens of a tokenizer trained here
OURS = SpecialTokens({"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}, adds_bos=True)


def read_beside(path: Path, backend: tokenizers.Tokenizer) -> SpecialTokens:
    """Read the files beside a Hugging Face ``tokenizer.json``.

    Args:
        path: the file ``tokenizer.json``. Beside it, as far as they are there, ``tokenizer_config.json``,
            ``special_tokens_map.json``, ``chat_template.jinja``, ``generation_config.json`` and ``config.json``.
        backend: what ``tokenizer.json`` holds.

    Returns:
        The special tokens.

    Raises:
        DataError: if a file is not what it should be, or none says which token ends a text.
    """
    config = _read(path.with_name("tokenizer_config.json"))
    named = {**_read(path.with_name("special_tokens_map.json")), **config}
    tokens = {name: _content(value) for name, value in named.items() if name.endswith("_token") and _content(value)}
    for file in ("generation_config.json", "config.json"):
        ids = _read(path.with_name(file))
        for name in ("bos_token", "eos_token", "pad_token"):
            number = ids.get(f"{name}_id")
            number = number[0] if isinstance(number, list) and number else number
            text = backend.id_to_token(number) if isinstance(number, int) and 0 <= number < 2**32 else None
            if text:
                tokens.setdefault(name, text)
    if "eos_token" not in tokens:
        raise DataError(
            f"{path}: nothing says what ends a text: put tokenizer_config.json with a field 'eos_token' beside it"
        )
    for name in tokens.keys() - {"bos_token", "eos_token", "pad_token"}:
        if backend.token_to_id(tokens[name]) is None:  # such as a mask token that a language model never had
            del tokens[name]
    try:
        bos = token_id(backend, tokens["bos_token"]) if "bos_token" in tokens else None
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    adds_bos = config.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = backend.encode("a", add_special_tokens=True).ids[:1] == [bos]
    template = _template(path, config)
    files = {"tokenizer_config.json": config, **{name: _read(path.with_name(name)) for name in FILES}}
    default = "plain" if template is None else "chat"
    return SpecialTokens(
        tokens=tokens,
        adds_bos=adds_bos and bos is not None,
        template=template,
        format=config.get("rlhf_jax_format", default),
        date=config.get("rlhf_jax_date", "") or _today(template),
        ends=ends_beside(path, files, backend),
        stops=stops_beside(path, files),
    )


def checked(special: SpecialTokens, path: Path) -> SpecialTokens:
    """Check that everything that was read of a tokenizer is of its kind.

    Args:
        special: what files say.
        path: the file, for the error.

    Raises:
        DataError: when a field is of another kind.
    """
    fits = {
        "tokens": isinstance(special.tokens, Mapping)
        and all(isinstance(text, str) for text in special.tokens.values()),
        "adds_bos": isinstance(special.adds_bos, bool),
        "template": isinstance(special.template, str | None),
        "format": special.format in FORMATS,
        "date": isinstance(special.date, str),
        "ends": _are_texts(special.ends),
        "stops": _are_texts(special.stops) and all(special.stops),
    }
    for field, fit in fits.items():
        if not fit:
            raise DataError(
                f"{path}: {field} of the tokenizer is {special._asdict()[field]!r:.60}; fetch the file again"
            )
    for name in ("eos_token", *(("bos_token",) if special.adds_bos else ())):
        if name not in special.tokens:
            raise DataError(f"{path}: the tokenizer has no {name}; fetch the file again")
    return special._replace(ends=tuple(special.ends), stops=tuple(special.stops))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def token_id(backend: tokenizers.Tokenizer, text: str) -> int:
    """Look up the id of a token.

    Args:
        backend: the vocabulary.
        text: the token as text.

    Returns:
        Its id.

    Raises:
        DataError: if there is no such token.
    """
    number = backend.token_to_id(text)
    if number is None:
        raise DataError(
            f"tokenizer: the special token {text!r} is not in the vocabulary; correct tokenizer_config.json"
        )
    return number


def mark_special(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Make tokens special, whatever the file says: text that spells them stays text, and decoding drops them.

    Args:
        backend: the vocabulary, changed in place; ids stay as they are.
        texts: tokens of the vocabulary, as text.
    """
    import tokenizers

    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = sorted(set(texts) - special)
    if missing:
        backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in missing])


def chat_template(backend: tokenizers.Tokenizer, special: SpecialTokens) -> ChatTemplate | None:
    """Make the chat template ready to be rendered; the token that ends an assistant's turn is made special.

    Args:
        backend: the vocabulary.
        special: what the tokenizer is besides; it has the template, if there is one.

    Returns:
        The template, or None where there is none.

    Raises:
        DataError: if the format is "chat" and the template does not say what ends a turn.
    """
    if special.template is None:
        return None
    source, date = special.template, {"date": special.date} if special.date else {}

    def template(added: Iterable[Any]) -> ChatTemplate:
        return ChatTemplate(source, special.tokens, tuple(token.content for token in added), **date)

    every = template(backend.get_added_tokens_decoder().values())
    try:
        mark_special(backend, [every.end.strip()])
    except DataError:
        if special.format == "chat":
            raise
    return template(token for token in backend.get_added_tokens_decoder().values() if token.special)


def write_beside(folder: str | os.PathLike[str], special: SpecialTokens) -> None:
    """Write the files that transformers reads beside ``tokenizer.json``.

    Args:
        folder: where to write; it must exist.
        special: what to write.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special.tokens,
        "add_bos_token": special.adds_bos,
        "clean_up_tokenization_spaces": False,
        "rlhf_jax_format": special.format,
    }
    if special.template is not None:
        config["chat_template"] = special.template
    if special.date:
        config["rlhf_jax_date"] = special.date
    if special.ends:
        config[KEY] = list(special.ends)
    if special.stops:
        config[STOPS_KEY] = list(special.stops)
    for name, fields in (("tokenizer_config.json", config), ("special_tokens_map.json", dict(special.tokens))):
        with atomic_text(Path(folder) / name) as file:
            json.dump(fields, file, indent=2, ensure_ascii=False)


def _today(template: str | None) -> str:
    return datetime.date.today().isoformat() if template and "strftime_now" in template else ""


def _template(path: Path, config: Mapping[str, Any]) -> str | None:
    file = path.with_name("chat_template.jinja")
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: expected UTF-8 ({error}); fetch the file again") from error
    given = config.get("chat_template")
    if isinstance(given, list):  # several by name; "default" is the one for plain chats
        pairs = [entry for entry in given if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)]
        by_name = {entry["name"]: entry.get("template") for entry in pairs}
        if "default" not in by_name:
            raise DataError(f"{path.with_name('tokenizer_config.json')}: chat_template: none is named 'default'")
        given = by_name["default"]
    if given is not None and not isinstance(given, str):
        raise DataError(f"{path.with_name('tokenizer_config.json')}: chat_template: expected text, found {given!r:.60}")
    return given


def _content(value: Any) -> str:
    """Read a token, which is written as its text or as an object around it; null and other fields give nothing."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON ({error}); fetch the file again") from error
    if not isinstance(fields, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(fields).__name__}; fetch the file again")
    return fields
